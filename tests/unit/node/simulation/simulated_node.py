"""One boot of a node in a simulated home: a whole daemon, and what a test may see of it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

from exo_lite.daemon.parts import Daemon
from exo_lite.domain.cluster_state import ClusterState
from exo_lite.domain.ids import ModelId
from exo_lite.domain.placement import Instance, Placement
from exo_lite.node.event_log import NodeEvent
from tests.unit.node.simulation.network import Listener


@dataclass
class SimulatedNode:
    name: str
    daemon: Daemon
    listener: Listener
    running: asyncio.Task[None]
    asking: list[asyncio.Task[None]] = field(default_factory=list)

    @property
    def state(self) -> ClusterState:
        return self.daemon.cluster.state

    @property
    def sees(self) -> dict[str, str]:
        """The other nodes by name: alive, suspect or dead."""
        return {one.status.identity.name: one.state for one in self.state.members.values()}

    @property
    def living(self) -> dict[str, str]:
        return {name: state for name, state in self.sees.items() if state != "dead"}

    @property
    def placement(self) -> Placement:
        return self.state.written

    @property
    def instances(self) -> tuple[Instance, ...]:
        return self.placement.instances

    @property
    def siblings(self) -> tuple[Instance, ...]:
        return self.placement.siblings

    @property
    def events(self) -> list[NodeEvent]:
        return list(self.daemon.events)

    def has_told(self, kind: str) -> bool:
        return any(event.kind == kind for event in self.events)

    def is_ready(self, model: str) -> bool:
        """The state document, as its page and its clients see it."""
        models: Any = self.daemon.service.state()["models"]
        return any(one["id"] == model and one["state"] == "ready" for one in models)

    def parts(self, model: str) -> dict[str, int]:
        """How many layers each node holds of a model, by name."""
        placed = [one for one in self.instances if one.model_id == ModelId(model)]
        return {part.name: part.shard.num_layers for one in placed for part in one.assignments}
