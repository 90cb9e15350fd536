from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from exo_lite.domain.cluster_state import ClusterState
from exo_lite.domain.placement import Instance
from exo_lite.node.attempts import Attempts
from exo_lite.node.cluster import Cluster
from exo_lite.node.demand import Demand
from exo_lite.node.drivers import Drivers
from exo_lite.node.event_log import EventLog
from exo_lite.node.http_face import HttpFace
from exo_lite.node.leader import Leader
from exo_lite.node.membership import Membership
from exo_lite.node.model_descriptions import ModelDescriptions
from exo_lite.node.model_search import ModelSearch
from exo_lite.node.model_texts import ModelTexts
from exo_lite.node.orders import Orders
from exo_lite.node.request_counts import RequestCounts
from exo_lite.node.supervisor import Supervisor
from exo_lite.store.model_store import ModelStore
from tests.loopback import CLOCK, PEERS

MakeService = Callable[[ClusterState | Cluster], HttpFace]


async def prove_nothing(instance: Instance) -> None:
    raise AssertionError("nothing is to be proven")


def attempts_of(seen: Cluster) -> Attempts:
    """What a node attempts that sees a given cluster."""
    return Attempts(seen, PEERS, Drivers(seen, PEERS))


def membership_of(seen: Cluster) -> Membership:
    return Membership(seen, EventLog(CLOCK), PEERS, CLOCK, Supervisor(CLOCK))


@pytest.fixture
def service_of(tmp_path: Path) -> MakeService:
    """Makes the service of a daemon that sees a given state."""

    async def look_nowhere() -> None:
        return

    def make(state: ClusterState | Cluster) -> HttpFace:
        seen, store = state if isinstance(state, Cluster) else Cluster(state), ModelStore(tmp_path)
        membership, leader = membership_of(seen), Leader(seen, prove_nothing, CLOCK, Supervisor(CLOCK))
        search = ModelSearch(seen, PEERS, membership.heartbeats, look_nowhere)
        descriptions = ModelDescriptions(seen, PEERS, store, search)
        orders = Orders(seen, PEERS, membership.meetings, leader, descriptions)
        drivers = Drivers(seen, PEERS)
        return HttpFace(
            seen,
            events=EventLog(CLOCK),
            membership=membership,
            leader=leader,
            orders=orders,
            counts=RequestCounts(seen),
            demand=Demand(seen, orders.place),
            drivers=drivers,
            attempts=Attempts(seen, PEERS, drivers),
            descriptions=descriptions,
            texts=ModelTexts(seen, store),
        )

    return make
