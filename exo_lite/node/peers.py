"""Peers as a daemon needs them: a way to each daemon and worker. `transport.peers.GrpcPeers` is the real one."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Protocol, Self

from exo_lite.domain.heartbeat import Heartbeat
from exo_lite.domain.ids import BootId, ModelId, NodeId
from exo_lite.domain.load_options import LoadRequest
from exo_lite.domain.node import NodeIdentity, NodeStatus
from exo_lite.domain.pipeline import ConnectOrder, Endpoint
from exo_lite.domain.placement import Instance, ModelDescription
from exo_lite.domain.request import GenerateRequest, Token
from exo_lite.domain.trace import RequestTrace
from exo_lite.domain.worker_report import WorkerReport


class PeerNode(Protocol):
    """Another daemon, at one address. Every call raises what the other side raised, or NodeLost."""

    address: str

    async def __aenter__(self) -> Self: ...

    async def __aexit__(self, *_: object) -> None: ...

    async def close(self) -> None: ...

    async def identify(self, *, timeout_s: float, padding_bytes: int = 0) -> NodeIdentity: ...

    async def handshake(self, status: NodeStatus, *, timeout_s: float) -> NodeStatus: ...

    async def refuse(self, reason: str, *, timeout_s: float) -> None: ...

    async def heartbeat(self, heartbeat: Heartbeat, *, timeout_s: float) -> Heartbeat: ...

    async def request_ping(self, node_id: NodeId, *, timeout_s: float) -> bool: ...

    async def leave(self, node_id: NodeId, boot_id: BootId, *, timeout_s: float) -> None: ...

    async def describe_model(self, model_id: ModelId, *, timeout_s: float) -> ModelDescription: ...

    async def place(self, model_id: ModelId, request: LoadRequest, *, timeout_s: float) -> Instance: ...

    async def unplace(self, model_id: ModelId, *, timeout_s: float) -> None: ...

    async def connect_shard(self, node_id: NodeId, order: ConnectOrder, *, timeout_s: float) -> None: ...

    def relay(self, request: GenerateRequest, num_relays: int) -> AsyncGenerator[Token, None]: ...


class PeerWorker(Protocol):
    """A worker, of this node or another. Every call raises what the worker raised, or NodeLost naming its node."""

    endpoint: Endpoint

    async def close(self) -> None: ...

    async def report(self, *, timeout_s: float) -> WorkerReport: ...

    async def connect(self, order: ConnectOrder, *, timeout_s: float) -> None: ...

    async def traces(self, *, timeout_s: float) -> tuple[RequestTrace, ...]: ...

    def generate(self, request: GenerateRequest) -> AsyncGenerator[Token, None]: ...


class Peers(Protocol):
    """Whoever asks for a node or a worker closes it."""

    def node(self, address: str) -> PeerNode: ...

    def worker(self, endpoint: Endpoint) -> PeerWorker: ...

    async def check_port(self, address: str, *, timeout_s: float) -> None:
        """Raises ConnectionRefused, PortSilent, NoRoute or another NodeLost where nothing listens at an address."""
