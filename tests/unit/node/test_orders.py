"""Orders go to the leader, and to its successor where it is lost on the way."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from exo_lite.domain.cluster_events import MemberLeft
from exo_lite.domain.cluster_state import ClusterState
from exo_lite.domain.errors import ConnectionRefused, NodeLost
from exo_lite.domain.ids import ModelId, NodeId
from exo_lite.node import orders
from exo_lite.node.cluster import Cluster
from exo_lite.transport.node_server import serve_node
from tests.loopback import PEERS, handlers_of
from tests.unit.node.cluster_states import MODEL, cluster, instance, member, node, part
from tests.unit.node.conftest import MakeService


class DyingLeader:
    def __init__(self) -> None:
        self.has_order = asyncio.Event()

    async def unplace(self, model_id: ModelId) -> None:
        self.has_order.set()
        raise NodeLost("on its way out")


def led_from(address: str) -> ClusterState:
    """Seen from b, which places nothing while it takes a for alive."""
    status = node("a")
    leader = replace(status, identity=replace(status.identity, addresses=(address,)))
    return cluster(node("b"), [member(leader)], instance(part("b", 0, 3)))


async def test_an_order_to_a_leader_that_dies_goes_to_the_next_one(service_of: MakeService) -> None:
    leader, server = DyingLeader(), PEERS.node_server()
    serve_node(server, handlers_of(leader))
    address = f"127.0.0.1:{PEERS.bind(server, '127.0.0.1', 0)}"
    await server.start()
    seen = Cluster(led_from(address))
    order = asyncio.create_task(service_of(seen).unload(MODEL))
    try:
        await asyncio.wait_for(leader.has_order.wait(), 10)
        seen.apply(MemberLeft(NodeId("a"), 0.0))
        await asyncio.wait_for(order, 10)
    finally:
        await server.stop(grace=None)
    assert seen.state.written.instances == ()


async def test_an_order_whose_leader_nobody_succeeds_says_so(
    service_of: MakeService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(orders, "LOSS_IS_NOTICED_WITHIN_S", 0.1)
    with pytest.raises(ConnectionRefused, match=r"127\.0\.0\.1:1 refuses connections: its process is gone"):
        await service_of(led_from("127.0.0.1:1")).unload(MODEL)
