"""Calls to a worker: its daemon's and an entry node's."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import grpc

from exo_lite.domain.pipeline import ConnectOrder, Endpoint
from exo_lite.domain.request import GenerateRequest, Token
from exo_lite.domain.trace import RequestTrace
from exo_lite.domain.worker_report import WorkerReport
from exo_lite.transport.cluster_codec import order_to_proto, report_from_proto
from exo_lite.transport.errors import errors_from_status
from exo_lite.transport.step_codec import request_to_proto, trace_from_proto
from exo_lite.transport.token_stream import received_tokens
from exo_lite.transport.v1 import worker_pb2
from exo_lite.transport.v1.worker_pb2_grpc import WorkerStub


class WorkerClient:
    """One worker at one address. Calls raise what the worker raised, or NodeLost naming its node."""

    def __init__(self, endpoint: Endpoint, channel: grpc.aio.Channel) -> None:
        """`channel` leads to `endpoint`, and is closed with the client."""
        self.endpoint = endpoint
        self._channel = channel
        self._stub = WorkerStub(channel)

    async def close(self) -> None:
        await self._channel.close()

    async def report(self, *, timeout_s: float) -> WorkerReport:
        """How the worker is."""
        with errors_from_status(self._peer):
            return report_from_proto(await self._stub.Status(worker_pb2.StatusRequest(), timeout=timeout_s))

    async def connect(self, order: ConnectOrder, *, timeout_s: float) -> None:
        with errors_from_status(self._peer):
            await self._stub.Connect(order_to_proto(order), timeout=timeout_s)

    async def traces(self, *, timeout_s: float) -> tuple[RequestTrace, ...]:
        """Return the traces of the first stage's last requests, the newest first."""
        with errors_from_status(self._peer):
            reply = await self._stub.Traces(worker_pb2.TracesRequest(), timeout=timeout_s)
        return tuple(trace_from_proto(one) for one in reply.requests)

    def generate(self, request: GenerateRequest) -> AsyncGenerator[Token, None]:
        """The answer's tokens as they come. Closing the generator cancels the request on every stage."""
        return received_tokens(lambda: self._stub.Generate(request_to_proto(request)), peer=self._peer)

    @property
    def _peer(self) -> str:
        return f"{self.endpoint.name} ({self.endpoint.address})"
