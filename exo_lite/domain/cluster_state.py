"""The cluster as one node believes it to be; what is lost is decided here, and nowhere else.

Readers see instances as they are: one that has lost a node is degraded, whatever the leader last wrote. What the leader
wrote is for the code that writes, merges and sends placements.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from exo_lite.domain.ids import Epoch, InstanceId, ModelId, NodeId
from exo_lite.domain.node import NodeIdentity, NodeStatus, ShardStatus
from exo_lite.domain.placement import Instance, Placement
from exo_lite.domain.plan import Assignment
from exo_lite.domain.worker_report import ShardState

MemberState = Literal["alive", "suspect", "dead"]

SUSPECT_AFTER_S = 2.0
REFUSALS_TO_DIE = 2
"""Refused connections in a row, without a sign of life between them."""


@dataclass(frozen=True, slots=True)
class Member:
    """Another node, as last heard of."""

    status: NodeStatus
    state: MemberState
    heard_at_s: float
    rtt_ms: float | None = None
    num_refusals: int = 0
    met_at_s: float = 0.0
    answered_at_s: float | None = None
    """The time when it last answered this node itself; None if never: it is known by what others pass on."""
    word_at_s: float = 0.0
    """The time of the newest status of it that others passed on."""
    is_heard_of: bool = True
    """Lately, from itself or from others."""
    route: str | None = None
    """The one of its addresses by which this node reaches it; None before that is known."""
    left_at_s: float | None = None
    """The time of its goodbye: earlier handshakes, and statuses that others pass on, do not bring it back."""

    @property
    def is_dead_to_this_side(self) -> bool:
        """Its process may run: it neither refused connections nor said goodbye, so another leader may reach it."""
        return self.state == "dead" and self.left_at_s is None and self.num_refusals < REFUSALS_TO_DIE

    @property
    def is_indirect(self) -> bool:
        """A handshake has still to come."""
        return self.answered_at_s is None

    @property
    def last_word_at_s(self) -> float:
        """The time when it last said how it is, to this node or to one that passed it on."""
        return max(self.heard_at_s, self.word_at_s)

    def is_reached(self, at_s: float) -> bool:
        return self.answered_at_s is not None and at_s - self.answered_at_s < SUSPECT_AFTER_S

    @property
    def address(self) -> str:
        """The address at which this node reaches it."""
        return self.route or self.status.identity.address


@dataclass(frozen=True, slots=True)
class ClusterState:
    """This node's own status, the other members and the newest placement seen."""

    self_status: NodeStatus
    members: Mapping[NodeId, Member] = field(default_factory=dict)
    written: Placement = field(default_factory=Placement.empty)
    """The placement as its leader wrote it, for those who write, merge and send it. Others read `instances`."""
    unmet_since_s: Mapping[NodeId, float] = field(default_factory=dict)
    """Nodes that the placement names and this one has not met yet, each with when that was noticed."""
    missing: frozenset[NodeId] = frozenset()
    """The unmet nodes that should have been met by now."""

    @property
    def identity(self) -> NodeIdentity:
        """This node's identity."""
        return self.self_status.identity

    @property
    def self_id(self) -> NodeId:
        return self.self_status.identity.node_id

    @property
    def living(self) -> dict[NodeId, NodeStatus]:
        """This node and every member that is not dead."""
        others = {node_id: member.status for node_id, member in self.members.items() if member.state != "dead"}
        return {self.self_id: self.self_status, **others}

    @property
    def held_models(self) -> set[ModelId]:
        """The models whose files are on a living node."""
        return {model_id for status in self.living.values() for model_id in status.models}

    def address_of(self, node_id: NodeId) -> str | None:
        """The address at which this node reaches another; None for a node that is not known."""
        member = self.members.get(node_id)
        return member.address if member else None

    @property
    def leader(self) -> NodeId:
        """The living member with the smallest id, the one author of placements."""
        return min(self.living)

    @property
    def is_leader(self) -> bool:
        return self.leader == self.self_id

    @property
    def epoch(self) -> Epoch:
        return self.written.epoch

    @property
    def instances(self) -> tuple[Instance, ...]:
        """Instances that take requests, as they are now."""
        return tuple(map(self._as_it_is, self.written.instances))

    @property
    def all_instances(self) -> tuple[Instance, ...]:
        """Every instance, including those that only finish their last requests."""
        return tuple(map(self._as_it_is, self.written.all_instances))

    def instance_of(self, model_id: ModelId) -> Instance | None:
        """The instance that takes a model's requests, as it is now."""
        written = self.written.instance_of(model_id)
        return written and self._as_it_is(written)

    def find(self, instance_id: InstanceId) -> Instance | None:
        """An instance as it is now, be it one that only finishes what it has."""
        written = self.written.find(instance_id)
        return written and self._as_it_is(written)

    def is_lost(self, node_id: NodeId) -> bool:
        """Say whether what a node held is gone. A node that was not met yet, as after a start, is not lost."""
        member = self.members.get(node_id)
        return node_id in self.missing if member is None else member.state == "dead"

    def lost_reason(self, instance: Instance) -> str | None:
        """Names the nodes of an instance that are dead or gone; None while all live."""
        lost = [assignment.name for assignment in instance.assignments if self.is_lost(assignment.node_id)]
        return f"{' and '.join(lost)} {'is' if len(lost) == 1 else 'are'} lost" if lost else None

    def end_reason(self, instance: Instance) -> str | None:
        """Why an answer from this instance cannot go on; None while it can."""
        lost = self.lost_reason(instance)
        if lost is not None or self.written.serves(instance):
            return lost
        current = self.written.instance_of(instance.model_id)
        if current is None:
            return f"{instance.model_id} was unloaded"
        if current.epoch != instance.epoch:
            return f"{instance.model_id} was placed again{f' because {current.reason}' if current.reason else ''}"
        return f"{instance.model_id} failed: {current.reason}" if current.state == "failed" else None

    def shard_status(self, instance: Instance, assignment: Assignment) -> ShardStatus | None:
        """Return a node's report on its part of an instance; None before it knows this epoch and once it is dead."""
        node = self.living.get(assignment.node_id)
        return next((one for one in node.shards if one.instance_id == instance.id), None) if node else None

    def shard_state(self, instance: Instance, assignment: Assignment) -> ShardState:
        """How a part of an instance is: lost with its node, and loading before its node has heard of this epoch."""
        if self.is_lost(assignment.node_id):
            return "lost"
        status = self.shard_status(instance, assignment)
        return status.state if status else "loading"

    def _as_it_is(self, written: Instance) -> Instance:
        """One that has just lost a node is not ready, whatever its placement says until the leader has a new one."""
        lost = self.lost_reason(written) if written.state == "ready" else None
        return written if lost is None else replace(written, state="degraded", reason=lost)
