"""The peers of a simulated node: calls go over the network in memory, to handlers as real servers have them."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any, Self, TypeVar

from exo_lite.domain.heartbeat import Heartbeat
from exo_lite.domain.ids import BootId, ModelId, NodeId
from exo_lite.domain.load_options import LoadRequest
from exo_lite.domain.node import NodeIdentity, NodeStatus
from exo_lite.domain.pipeline import ConnectOrder, Endpoint
from exo_lite.domain.placement import Instance, ModelDescription
from exo_lite.domain.request import GenerateRequest, Token
from exo_lite.domain.trace import RequestTrace
from exo_lite.domain.worker import DEFAULT_HANG_TIMEOUT_S
from exo_lite.domain.worker_report import WorkerReport
from exo_lite.transport.node_server import NodeHandlers
from tests.unit.node.simulation.network import Network

T = TypeVar("T")


class SimulatedPeers:
    """Fits node.peers.Peers, for the node at one host."""

    def __init__(self, network: Network, host: str) -> None:
        self._network = network
        self._host = host

    def node(self, address: str) -> NodeCalls:
        return NodeCalls(self._network, self._host, address)

    def worker(self, endpoint: Endpoint) -> WorkerCalls:
        return WorkerCalls(self._network, self._host, endpoint)

    async def check_port(self, address: str, *, timeout_s: float) -> None:
        await self._network.check_port(self._host, address, timeout_s)


class NodeCalls:
    """Fits node.peers.PeerNode."""

    def __init__(self, network: Network, caller: str, address: str) -> None:
        self.address = address
        self._network = network
        self._caller = caller

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """There is no connection."""

    async def identify(self, *, timeout_s: float, padding_bytes: int = 0) -> NodeIdentity:
        return await self._call(_at_once(lambda peer: peer.identity()), timeout_s)

    async def handshake(self, status: NodeStatus, *, timeout_s: float) -> NodeStatus:
        return await self._call(lambda peer: peer.membership.on_handshake(status, self._caller), timeout_s)

    async def refuse(self, reason: str, *, timeout_s: float) -> None:
        await self._call(_at_once(lambda peer: peer.meetings.on_refused(reason, self._caller)), timeout_s)

    async def heartbeat(self, heartbeat: Heartbeat, *, timeout_s: float) -> Heartbeat:
        return await self._call(_at_once(lambda peer: peer.heartbeats.on_heartbeat(heartbeat)), timeout_s)

    async def request_ping(self, node_id: NodeId, *, timeout_s: float) -> bool:
        return await self._call(lambda peer: peer.heartbeats.on_ping_request(node_id), timeout_s)

    async def leave(self, node_id: NodeId, boot_id: BootId, *, timeout_s: float) -> None:
        await self._call(_at_once(lambda peer: peer.membership.on_leave(node_id, boot_id)), timeout_s)

    async def describe_model(self, model_id: ModelId, *, timeout_s: float) -> ModelDescription:
        return await self._call(lambda peer: peer.descriptions.on_describe_model(model_id), timeout_s)

    async def place(self, model_id: ModelId, request: LoadRequest, *, timeout_s: float) -> Instance:
        return await self._call(lambda peer: peer.orders.place(model_id, request), timeout_s)

    async def unplace(self, model_id: ModelId, *, timeout_s: float) -> None:
        await self._call(lambda peer: peer.orders.unplace(model_id), timeout_s)

    async def connect_shard(self, node_id: NodeId, order: ConnectOrder, *, timeout_s: float) -> None:
        await self._call(lambda peer: peer.joiner.join(node_id, order), timeout_s)

    def relay(self, request: GenerateRequest, num_relays: int) -> AsyncGenerator[Token, None]:
        return self._network.stream(
            self._caller,
            self.address,
            lambda peer: peer.attempts.relay(request, num_relays),
            silence_s=DEFAULT_HANG_TIMEOUT_S,
        )

    async def _call(self, ask: Callable[[NodeHandlers], Awaitable[T]], timeout_s: float) -> T:
        return await self._network.call(self._caller, self.address, ask, timeout_s=timeout_s)


class WorkerCalls:
    """Fits node.peers.PeerWorker."""

    def __init__(self, network: Network, caller: str, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self._network = network
        self._caller = caller

    async def close(self) -> None:
        """There is no connection."""

    async def report(self, *, timeout_s: float) -> WorkerReport:
        raise AssertionError("a simulated worker tells its daemon itself")

    async def connect(self, order: ConnectOrder, *, timeout_s: float) -> None:
        await self._call(lambda worker: worker.on_connect(order), timeout_s)

    async def traces(self, *, timeout_s: float) -> tuple[RequestTrace, ...]:
        return await self._call(_at_once(lambda worker: worker.traces()), timeout_s)

    def generate(self, request: GenerateRequest) -> AsyncGenerator[Token, None]:
        return self._network.stream(
            self._caller,
            self.endpoint.address,
            lambda worker: worker.generate(request),
            silence_s=DEFAULT_HANG_TIMEOUT_S,
        )

    async def _call(self, ask: Callable[[Any], Awaitable[T]], timeout_s: float) -> T:
        return await self._network.call(self._caller, self.endpoint.address, ask, timeout_s=timeout_s)


def _at_once(ask: Callable[[Any], T]) -> Callable[[Any], Awaitable[T]]:
    """The answer of a handler that waits for nothing."""

    async def answer(handler: Any) -> T:
        return ask(handler)

    return answer
