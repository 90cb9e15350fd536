"""An order to join: carried out for this node's worker, passed on for another's."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from exo_lite.domain.errors import NodeLost, NotReady, PortSilent
from exo_lite.domain.ids import InstanceId, NodeId
from exo_lite.domain.pipeline import ConnectOrder, Endpoint
from exo_lite.node.cluster import Cluster
from exo_lite.node.joining import Joiner
from tests.unit.node.cluster_states import EPOCH, INSTANCE, MODEL, cluster, member, node

A, B, C = NodeId("a"), NodeId("b"), NodeId("c")
ORDER = ConnectOrder(MODEL, EPOCH, 1, 2, previous=Endpoint("node-b", ":17", B), tail=None, next_name="node-b")


class FakePeers:
    """Other nodes and this one's worker, which note what they are told. `silent` is a port that does not answer."""

    def __init__(self, *, silent: str | None = None) -> None:
        self.told: list[tuple[Any, ...]] = []
        self._silent = silent

    def node(self, address: str) -> FakePeers:
        self.told.append(("at", address))
        return self

    async def __aenter__(self) -> FakePeers:
        return self

    async def __aexit__(self, *_: object) -> None:
        return

    async def connect_shard(self, node_id: NodeId, order: ConnectOrder, *, timeout_s: float) -> None:
        self.told.append(("pass on", node_id, order))

    async def connect(self, order: ConnectOrder, *, timeout_s: float) -> None:
        self.told.append(("connect", order))

    async def check_port(self, address: str, *, timeout_s: float) -> None:
        if address == self._silent:
            raise PortSilent(f"{address} does not answer")


def joiner(peers: FakePeers, *, unreached: tuple[NodeId, ...] = (), has_worker: bool = True) -> Joiner:
    def worker_of(instance_id: InstanceId) -> Any:
        assert instance_id == INSTANCE
        if not has_worker:
            raise NotReady("no worker here serves tiny in epoch 5 yet")
        return peers

    this = replace(node("a"), unreached=unreached)
    seen = Cluster(cluster(this, [member(node("b")), member(node("c"))]))
    return Joiner(seen, peers, worker_of)  # type: ignore[arg-type]  # nothing else of peers is asked for


async def test_this_nodes_worker_gets_the_hosts_by_which_this_node_reaches_its_neighbours():
    peers = FakePeers()
    await joiner(peers).join(A, ORDER)
    assert peers.told == [("connect", replace(ORDER, previous=Endpoint("node-b", "10.0.0.98:17", B)))]


async def test_another_nodes_order_goes_there_or_to_one_on_the_way():
    peers = FakePeers()
    await joiner(peers).join(C, ORDER)
    await joiner(peers, unreached=(C,)).join(C, ORDER)
    passed = ("pass on", C, ORDER)
    assert peers.told == [("at", "10.0.0.99:52414"), passed, ("at", "10.0.0.98:52414"), passed]


async def test_a_neighbour_whose_port_does_not_answer_is_named():
    with pytest.raises(PortSilent, match=r"node-a does not reach the worker on node-b: 10\.0\.0\.98:17 does not"):
        await joiner(FakePeers(silent="10.0.0.98:17")).join(A, ORDER)


async def test_what_cannot_be_done_is_said():
    with pytest.raises(NotReady, match="no worker here serves tiny"):
        await joiner(FakePeers(), has_worker=False).join(A, ORDER)
    with pytest.raises(NodeLost, match="node d is gone"):
        await joiner(FakePeers()).join(NodeId("d"), ORDER)
    unmet = replace(ORDER, previous=Endpoint("node-d", ":17", NodeId("d")))
    with pytest.raises(NodeLost, match="node-a does not know node d yet"):
        await joiner(FakePeers()).join(A, unmet)
