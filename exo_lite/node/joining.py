"""Orders that join workers into rings: carried out for this node's workers, passed on for those of others."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from exo_lite.domain.addresses import split_address
from exo_lite.domain.errors import NodeLost
from exo_lite.domain.ids import InstanceId, NodeId
from exo_lite.domain.links import next_hop
from exo_lite.domain.pipeline import ConnectOrder, Endpoint
from exo_lite.node.cluster import Cluster
from exo_lite.node.peers import Peers, PeerWorker

PORT_TIMEOUT_S = 2.0
CONNECT_TIMEOUT_S = 10.0
PASS_ON_TIMEOUT_S = 15.0

WorkerOf = Callable[[InstanceId], PeerWorker]


class Joiner:
    """The leader gives it orders, and other nodes do. `worker_of` raises NotReady or NodeLost where there is none."""

    def __init__(self, cluster: Cluster, peers: Peers, worker_of: WorkerOf) -> None:
        self._cluster = cluster
        self._peers = peers
        self._worker_of = worker_of

    async def join(self, node_id: NodeId, order: ConnectOrder) -> None:
        """Join a node's worker to its neighbours.

        Raises NotReady where that node has none, PortSilent or another NodeLost that names the port of a neighbour that
        it does not reach, or what the worker raises.
        """
        if node_id != self._cluster.state.self_id:
            await self._pass_on(node_id, order)
            return
        worker = self._worker_of(order.instance_id)
        routed = order.routed(self._host_of)
        await asyncio.gather(*(self._check(endpoint) for endpoint in routed.endpoints))
        await worker.connect(routed, timeout_s=CONNECT_TIMEOUT_S)

    async def _pass_on(self, node_id: NodeId, order: ConnectOrder) -> None:
        state = self._cluster.state
        member = state.members.get(next_hop(state, node_id) or node_id)
        if member is None or member.state == "dead":
            raise NodeLost(f"node {node_id} is gone")
        async with self._peers.node(member.address) as client:
            await client.connect_shard(node_id, order, timeout_s=PASS_ON_TIMEOUT_S)

    async def _check(self, endpoint: Endpoint) -> None:
        """A stream would say less of what is wrong, and later."""
        try:
            await self._peers.check_port(endpoint.address, timeout_s=PORT_TIMEOUT_S)
        except NodeLost as error:
            who = self._cluster.state.self_status.identity.name
            raise type(error)(f"{who} does not reach the worker on {endpoint.name}: {error}") from error

    def _host_of(self, node_id: NodeId) -> str:
        """Raises NodeLost for a node that this one has not met."""
        address = self._cluster.state.address_of(node_id)
        if address is None:
            raise NodeLost(f"{self._cluster.state.self_status.identity.name} does not know node {node_id} yet")
        return split_address(address)[0]
