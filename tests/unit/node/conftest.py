from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from exo_lite.domain.cluster_state import ClusterState
from exo_lite.domain.placement import Instance
from exo_lite.node.attempts import Attempts
from exo_lite.node.cluster import Cluster
from exo_lite.node.events import EventLog
from exo_lite.node.heads import Heads
from exo_lite.node.leader import Leader
from exo_lite.node.membership import Membership
from exo_lite.node.service import NodeService
from exo_lite.node.supervisor import Supervisor
from exo_lite.store.model_store import ModelStore
from tests.loopback import CLOCK, PEERS

MakeService = Callable[[ClusterState | Cluster], NodeService]


async def prove_nothing(instance: Instance) -> None:
    raise AssertionError("nothing is to be proven")


def attempts_of(seen: Cluster) -> Attempts:
    """What a node attempts that sees a given cluster."""
    return Attempts(seen, PEERS, Heads(seen, PEERS))


@pytest.fixture
def service_of(tmp_path: Path) -> MakeService:
    """Makes the service of a daemon that sees a given state."""

    def make(state: ClusterState | Cluster) -> NodeService:
        seen, events = state if isinstance(state, Cluster) else Cluster(state), EventLog(CLOCK)
        heads = Heads(seen, PEERS)
        attempts = Attempts(seen, PEERS, heads)
        return NodeService(
            seen,
            peers=PEERS,
            events=events,
            membership=Membership(seen, events, PEERS, CLOCK, Supervisor(CLOCK)),
            leader=Leader(seen, prove_nothing, CLOCK, Supervisor(CLOCK)),
            heads=heads,
            attempts=attempts,
            store=ModelStore(tmp_path),
        )

    return make
