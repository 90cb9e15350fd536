"""The message that nodes send each other twice a second."""

from __future__ import annotations

from dataclasses import dataclass, field

from exo_lite.domain.errors import MalformedMessage
from exo_lite.domain.node import NodeStatus
from exo_lite.domain.placement import Placement


@dataclass(frozen=True, slots=True)
class RelayedStatus:
    """The newest status of a node that somebody else knows, and how long ago the node itself said so.

    Raises MalformedMessage for an age below zero.
    """

    status: NodeStatus
    age_s: float

    def __post_init__(self) -> None:
        if not self.age_s >= 0.0:
            raise MalformedMessage(f"a relayed status cannot be {self.age_s} s old")


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """A node's own status, the newest placement that it knows, and word of nodes that the other side may not reach."""

    status: NodeStatus
    placement: Placement = field(default_factory=Placement.empty)
    """An empty one where the other side is known to have the newest."""
    relayed: tuple[RelayedStatus, ...] = ()
