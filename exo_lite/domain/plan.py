"""The result of planning: a Plan or a Refusal."""

from __future__ import annotations

from dataclasses import dataclass

from exo_lite.domain.engine import DEFAULT_ENGINE
from exo_lite.domain.ids import ModelId, NodeId
from exo_lite.domain.load_options import LoadOptions
from exo_lite.domain.shard import Shard


@dataclass(frozen=True, slots=True)
class NodeOffer:
    """The memory that one node offers to a model. `reason` says why it offers nothing, if so."""

    node_id: NodeId
    name: str
    memory_bytes: int
    reason: str | None = None
    engine: str = DEFAULT_ENGINE
    """The engine that it computes with, which decides on the bytes that a layer takes there."""


@dataclass(frozen=True, slots=True)
class Assignment:
    """One node's part of a plan, with the bytes that it takes there."""

    node_id: NodeId
    name: str
    shard: Shard
    weight_bytes: int
    kv_cache_bytes: int
    working_bytes: int

    @property
    def memory_bytes(self) -> int:
        return self.weight_bytes + self.kv_cache_bytes + self.working_bytes


@dataclass(frozen=True, slots=True)
class Exclusion:
    """A node that holds nothing of the model, and why."""

    node_id: NodeId
    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class Plan:
    """Every layer of a model exactly once, in layer order."""

    model_id: ModelId
    n_layers: int
    options: LoadOptions
    assignments: tuple[Assignment, ...]
    excluded: tuple[Exclusion, ...] = ()


@dataclass(frozen=True, slots=True)
class Refusal:
    """No contiguous split fits; `reason` carries the arithmetic, in a sentence per node."""

    model_id: ModelId
    n_layers: int
    options: LoadOptions
    reason: str
    needed_bytes: int
    available_bytes: int
    excluded: tuple[Exclusion, ...] = ()
    broken_links: tuple[tuple[str, str], ...] = ()
    """Names of the nodes that cannot reach each other, where there is memory enough and that is the cause."""
    lacks_files: bool = False
    """There is memory enough, on nodes that do not have the model's files."""
