"""The drivers of instances, as this node reaches them: long-lived channels, and what a driver reports of itself."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from exo_lite.domain.addresses import join_address, split_address
from exo_lite.domain.errors import ExoLiteError, NotReady
from exo_lite.domain.ids import ModelId, NodeId
from exo_lite.domain.pipeline import Endpoint
from exo_lite.domain.placement import Instance
from exo_lite.domain.trace import TraceReport
from exo_lite.node.cluster import Cluster
from exo_lite.node.peers import Peers, PeerWorker

TRACES_TIMEOUT_S = 5.0


class Drivers:
    """`own_host`: where this node reaches its own worker."""

    def __init__(self, cluster: Cluster, peers: Peers, own_host: str = "127.0.0.1") -> None:
        self._cluster = cluster
        self._peers = peers
        self._own_host = own_host
        self._channels: dict[Endpoint, PeerWorker] = {}
        self._num_users: Counter[Endpoint] = Counter()

    @property
    def num_channels(self) -> int:
        return len(self._channels)

    @contextmanager
    def use(self, instance: Instance) -> Iterator[PeerWorker]:
        """The channel to an instance's driver, which stays open at least so long. Raises NotReady."""
        endpoint = self._endpoint(instance)
        channel = self._channels.get(endpoint)
        if channel is None:
            channel = self._channels[endpoint] = self._peers.worker(endpoint)
        self._num_users[endpoint] += 1
        try:
            yield channel
        finally:
            self._num_users[endpoint] -= 1

    async def close_gone(self) -> None:
        """Close the channels that nobody uses and that lead to no driver any more."""
        drivers = self._placed_drivers()
        gone = [endpoint for endpoint in self._channels if endpoint not in drivers and not self._num_users[endpoint]]
        await self._close(gone)

    async def close(self) -> None:
        await self._close([*self._channels])

    async def _close(self, endpoints: list[Endpoint]) -> None:
        closing = [self._channels.pop(endpoint) for endpoint in endpoints]
        for endpoint in endpoints:
            self._num_users.pop(endpoint, None)
        await asyncio.gather(*(channel.close() for channel in closing))

    async def traces(self, model_id: ModelId) -> TraceReport:
        """Steps of its last requests, wherever they entered. Raises NotReady where it is not loaded."""
        instance = self.instance(model_id)
        try:
            with self.use(instance) as driver:
                return TraceReport(instance, await driver.traces(timeout_s=TRACES_TIMEOUT_S))
        except ExoLiteError as error:
            return TraceReport(instance, reason=str(error))

    def proof_age_s(self, instance: Instance) -> float | None:
        """Seconds since something went through every hop of an instance."""
        status = self._cluster.state.shard_status(instance, instance.assignments[0])
        if status is None or status.driver is None or status.report.joined_epoch != instance.epoch:
            return None
        return status.driver.proof_age_s

    def instance(self, model_id: ModelId) -> Instance:
        """The model as it is placed. Raises NotReady where it is not."""
        instance = self._cluster.state.instance_of(model_id)
        if instance is None:
            raise NotReady(f"{model_id} is not loaded any more: try again")
        return instance

    def _placed_drivers(self) -> set[Endpoint]:
        endpoints: set[Endpoint] = set()
        for instance in self._cluster.state.all_instances:
            with suppress(NotReady):
                endpoints.add(self._endpoint(instance))
        return endpoints

    def _endpoint(self, instance: Instance) -> Endpoint:
        """Raises NotReady."""
        first = instance.assignments[0]
        status = self._cluster.state.shard_status(instance, first)
        host = self._host_of(first.node_id)
        if status is None or status.worker_port is None or host is None:
            raise NotReady(f"the worker on {first.name}, the first node of {instance.model_id}, has not started yet")
        return Endpoint(first.name, join_address(host, status.worker_port))

    def _host_of(self, node_id: NodeId) -> str | None:
        if node_id == self._cluster.state.self_id:
            return self._own_host
        address = self._cluster.state.address_of(node_id)
        return split_address(address)[0] if address else None
