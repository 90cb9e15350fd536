"""The worker's gRPC face: protobuf in and out, domain types inside."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any, Protocol

import grpc

from exo_lite.domain.pipeline import ConnectOrder
from exo_lite.domain.request import GenerateRequest, Token
from exo_lite.domain.trace import RequestTrace
from exo_lite.domain.worker_report import WorkerReport
from exo_lite.transport.cluster_codec import order_from_proto, report_to_proto
from exo_lite.transport.errors import errors_as_status
from exo_lite.transport.step_codec import request_from_proto, trace_to_proto
from exo_lite.transport.token_stream import send_tokens
from exo_lite.transport.v1 import cluster_pb2, node_pb2, worker_pb2
from exo_lite.transport.v1.worker_pb2_grpc import WorkerServicer, add_WorkerServicer_to_server

Context = grpc.aio.ServicerContext[Any, Any]


class WorkerHandler(Protocol):
    """A worker's answers to calls. Raised ExoLiteErrors reach the caller."""

    def report(self) -> WorkerReport: ...

    async def on_connect(self, order: ConnectOrder) -> None: ...

    def traces(self) -> tuple[RequestTrace, ...]: ...

    def generate(self, request: GenerateRequest) -> AsyncGenerator[Token, None]: ...


def serve_worker(server: grpc.aio.Server, handler: WorkerHandler) -> None:
    add_WorkerServicer_to_server(_WorkerServicer(handler), server)


class _WorkerServicer(WorkerServicer):
    def __init__(self, handler: WorkerHandler) -> None:
        self._handler = handler

    async def Status(self, request: worker_pb2.StatusRequest, context: Context) -> cluster_pb2.WorkerReport:
        return report_to_proto(self._handler.report())

    async def Connect(self, request: node_pb2.ConnectRequest, context: Context) -> node_pb2.ConnectReply:
        async with errors_as_status(context):
            await self._handler.on_connect(order_from_proto(request))
        return node_pb2.ConnectReply()

    async def Traces(self, request: worker_pb2.TracesRequest, context: Context) -> worker_pb2.TracesReply:
        async with errors_as_status(context):
            return worker_pb2.TracesReply(requests=[trace_to_proto(one) for one in self._handler.traces()])

    async def Generate(  # type: ignore[override]  # gRPC takes coroutines that write, its stubs know iterators only
        self, request: worker_pb2.GenerateRequest, context: Context
    ) -> None:
        async with errors_as_status(context):
            await send_tokens(self._handler.generate(request_from_proto(request)), context)
