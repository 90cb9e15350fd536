"""The placement: which node holds which layers. One author, the leader, writes it; every node copies it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from exo_lite.domain.ids import Epoch, InstanceId, ModelId, NodeId
from exo_lite.domain.keep_alive import FOR_EVER
from exo_lite.domain.load_options import LoadOptions
from exo_lite.domain.model_spec import ModelSpec
from exo_lite.domain.plan import Assignment


@dataclass(frozen=True, slots=True, order=True)
class Dot:
    """An author, and its number at the time."""

    author: NodeId
    number: int


NO_DOT = Dot(NodeId(""), 0)

InstanceState = Literal["loading", "warming", "ready", "degraded", "failed"]
ServedState = InstanceState | Literal["on_disk"]
"""`on_disk`: a request has it loaded first."""


@dataclass(frozen=True, slots=True)
class ModelDescription:
    """A model in a node's store. Equal fingerprints mean equal files."""

    model_id: ModelId
    fingerprint: str
    spec: ModelSpec
    created: int = 0
    """The time of its import, in unix seconds."""


@dataclass(frozen=True, slots=True)
class Instance:
    """A model placed on nodes. `ready` means that a real token has gone through every hop of this epoch."""

    model_id: ModelId
    fingerprint: str
    """A hash of the model's files: the same on every node that holds a part."""
    spec: ModelSpec
    epoch: Epoch
    options: LoadOptions
    assignments: tuple[Assignment, ...]
    state: InstanceState
    reason: str | None = None
    cause: str | None = None
    """The ExoLiteError.code of what went wrong, which decides the hint."""
    keep_alive_s: float = FOR_EVER
    """Idle seconds after which it is evicted."""
    dot: Dot = field(default=NO_DOT, compare=False)
    """The version of its last change; it does not count for equality."""

    @property
    def id(self) -> InstanceId:
        return InstanceId(self.model_id, self.epoch)

    @property
    def is_pinned(self) -> bool:
        """It is unloaded only when somebody asks for that."""
        return self.keep_alive_s == FOR_EVER

    @property
    def condition(self) -> str:
        """The state in a sentence, with its reason."""
        return f"{self.model_id} is {self.state}" + (f": {self.reason}" if self.reason else "")

    @property
    def n_layers(self) -> int:
        return self.spec.n_layers

    @property
    def node_ids(self) -> frozenset[NodeId]:
        return frozenset(assignment.node_id for assignment in self.assignments)


@dataclass(frozen=True, slots=True)
class UnloadedModel:
    """A model that was evicted or unloaded, with the epoch without it and a sentence on why."""

    model_id: ModelId
    epoch: Epoch
    text: str


@dataclass(frozen=True, slots=True)
class Placement:
    """All instances of a cluster. Which of two is to hold, `healing.newest` says, alike everywhere."""

    author: NodeId
    epoch: Epoch
    revision: int
    instances: tuple[Instance, ...] = ()
    unloaded: tuple[UnloadedModel, ...] = ()
    """The last few, oldest first: a node may miss a placement, and is still to tell why a model is gone."""
    clock: Mapping[NodeId, int] = field(default_factory=dict)
    """The vector clock of its author: the newest change known of each author."""
    siblings: tuple[Instance, ...] = ()
    """Other instances of the same models, by leaders that did not know of each other: they finish their requests."""
    is_restored: bool = False
    """It comes from before a restart, and only says which models are pinned."""

    @classmethod
    def empty(cls) -> Placement:
        """Return the placement before the first one: it holds no model, and gives way to every other placement."""
        return cls(NodeId(""), Epoch(0), 0)

    @property
    def is_empty(self) -> bool:
        return not self.author

    @property
    def version(self) -> tuple[int, int, NodeId]:
        return (self.epoch, self.revision, self.author)

    @property
    def all_instances(self) -> tuple[Instance, ...]:
        """Siblings too, which come last."""
        return (*self.instances, *self.siblings)

    def instance_of(self, model_id: ModelId) -> Instance | None:
        """The instance that takes a model's requests: where there are several, one that is ready, else the newest."""
        found = [one for one in self.instances if one.model_id == model_id]
        return max(found, key=lambda one: (one.state == "ready", one.epoch), default=None)

    def find(self, instance_id: InstanceId) -> Instance | None:
        """An instance, be it one that only finishes what it has."""
        return next((one for one in self.all_instances if one.id == instance_id), None)

    def serves(self, instance: Instance) -> bool:
        """Say whether answers from this very instance may go on."""
        serving = (one for one in self.all_instances if one.state != "failed")
        return any((one.id, one.assignments) == (instance.id, instance.assignments) for one in serving)


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A model as clients list it; `created` in unix seconds, 0 where no node tells."""

    id: str
    created: int
    state: ServedState
    context_length: int | None = None
    """The context length of the loaded model, or as a request would load it; None if no node tells."""
