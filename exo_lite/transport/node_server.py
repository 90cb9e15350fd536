"""The daemon's gRPC face: protobuf in and out, domain types inside. Each call goes to the part that answers it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import unquote

import grpc

from exo_lite.domain.addresses import split_address
from exo_lite.domain.heartbeat import Heartbeat
from exo_lite.domain.ids import BootId, ModelId, NodeId
from exo_lite.domain.load_options import LoadRequest
from exo_lite.domain.node import NodeIdentity, NodeStatus
from exo_lite.domain.pipeline import ConnectOrder
from exo_lite.domain.placement import Instance, ModelDescription
from exo_lite.domain.request import GenerateRequest, Token
from exo_lite.transport import cluster_codec as codec
from exo_lite.transport.errors import errors_as_status
from exo_lite.transport.step_codec import request_from_proto
from exo_lite.transport.token_stream import send_tokens
from exo_lite.transport.v1 import cluster_pb2, node_pb2, relay_pb2
from exo_lite.transport.v1.node_pb2_grpc import NodeServicer, add_NodeServicer_to_server
from exo_lite.transport.v1.relay_pb2_grpc import RelayServicer, add_RelayServicer_to_server

MAX_PADDING_BYTES = 64 * 1024
Context = grpc.aio.ServicerContext[Any, Any]


class MembershipHandler(Protocol):
    async def on_handshake(self, status: NodeStatus, seen_from: str | None) -> NodeStatus: ...

    def on_leave(self, node_id: NodeId, boot_id: BootId) -> None: ...


class MeetingsHandler(Protocol):
    def on_refused(self, reason: str, seen_from: str | None) -> None: ...


class HeartbeatsHandler(Protocol):
    def on_heartbeat(self, heartbeat: Heartbeat) -> Heartbeat: ...

    async def on_ping_request(self, node_id: NodeId) -> bool: ...


class DescriptionsHandler(Protocol):
    async def on_describe_model(self, model_id: ModelId) -> ModelDescription: ...


class OrdersHandler(Protocol):
    async def place(self, model_id: ModelId, request: LoadRequest) -> Instance: ...

    async def unplace(self, model_id: ModelId) -> None: ...


class JoiningHandler(Protocol):
    async def join(self, node_id: NodeId, order: ConnectOrder) -> None:
        """Join this node's worker to a pipeline, or pass the order on to another node."""


class RelayHandler(Protocol):
    def relay(self, request: GenerateRequest, num_relays: int) -> AsyncGenerator[Token, None]:
        """The answer to a request that entered at a node which does not reach the driver itself."""


@dataclass(frozen=True, slots=True)
class NodeHandlers:
    """The parts of a daemon that answer other nodes. Each raises ExoLiteError, which reaches the caller as such."""

    identity: Callable[[], NodeIdentity]
    membership: MembershipHandler
    meetings: MeetingsHandler
    heartbeats: HeartbeatsHandler
    descriptions: DescriptionsHandler
    orders: OrdersHandler
    joiner: JoiningHandler
    attempts: RelayHandler


def serve_node(server: grpc.aio.Server, handlers: NodeHandlers) -> None:
    add_NodeServicer_to_server(_NodeServicer(handlers), server)
    add_RelayServicer_to_server(_RelayServicer(handlers.attempts), server)


def caller_host(peer: str) -> str | None:
    """The host in gRPC's word on who calls, as `ipv4:10.0.0.2:40612`; None for what is no network address."""
    family, _, rest = unquote(unquote(peer)).partition(":")
    if family not in ("ipv4", "ipv6"):
        return None
    return split_address(rest)[0]


class _NodeServicer(NodeServicer):
    def __init__(self, handlers: NodeHandlers) -> None:
        self._handlers = handlers

    async def Identify(self, request: node_pb2.IdentifyRequest, context: Context) -> cluster_pb2.NodeIdentity:
        identity = codec.identity_to_proto(self._handlers.identity())
        identity.padding = bytes(min(len(request.padding), MAX_PADDING_BYTES))
        return identity

    async def Handshake(self, request: node_pb2.HandshakeRequest, context: Context) -> cluster_pb2.NodeStatus:
        async with errors_as_status(context):
            status = codec.node_status_from_proto(request.status)
            status = await self._handlers.membership.on_handshake(status, caller_host(context.peer()))
        return codec.node_status_to_proto(status)

    async def Refuse(self, request: node_pb2.RefuseRequest, context: Context) -> node_pb2.RefuseReply:
        self._handlers.meetings.on_refused(request.reason, caller_host(context.peer()))
        return node_pb2.RefuseReply()

    async def Heartbeat(self, request: node_pb2.HeartbeatMessage, context: Context) -> node_pb2.HeartbeatMessage:
        async with errors_as_status(context):
            answer = self._handlers.heartbeats.on_heartbeat(codec.heartbeat_from_proto(request))
        return codec.heartbeat_to_proto(answer)

    async def RequestPing(self, request: node_pb2.PingRequest, context: Context) -> node_pb2.PingReply:
        return node_pb2.PingReply(is_reached=await self._handlers.heartbeats.on_ping_request(NodeId(request.node_id)))

    async def Leave(self, request: node_pb2.LeaveRequest, context: Context) -> node_pb2.LeaveReply:
        self._handlers.membership.on_leave(NodeId(request.node_id), BootId(request.boot_id))
        return node_pb2.LeaveReply()

    async def DescribeModel(
        self, request: node_pb2.DescribeModelRequest, context: Context
    ) -> node_pb2.ModelDescription:
        async with errors_as_status(context):
            model = await self._handlers.descriptions.on_describe_model(ModelId(request.model_id))
        return codec.description_to_proto(model)

    async def Place(self, request: node_pb2.PlaceRequest, context: Context) -> cluster_pb2.Instance:
        async with errors_as_status(context):
            instance = await self._handlers.orders.place(*codec.load_request_from_proto(request))
        return codec.instance_to_proto(instance)

    async def Unplace(self, request: node_pb2.UnplaceRequest, context: Context) -> node_pb2.UnplaceReply:
        async with errors_as_status(context):
            await self._handlers.orders.unplace(ModelId(request.model_id))
        return node_pb2.UnplaceReply()

    async def ConnectShard(self, request: node_pb2.ConnectRequest, context: Context) -> node_pb2.ConnectReply:
        async with errors_as_status(context):
            node_id = NodeId(request.node_id) or self._handlers.identity().node_id
            await self._handlers.joiner.join(node_id, codec.order_from_proto(request))
        return node_pb2.ConnectReply()


class _RelayServicer(RelayServicer):
    def __init__(self, handler: RelayHandler) -> None:
        self._handler = handler

    async def Generate(  # type: ignore[override]  # gRPC takes coroutines that write, its stubs know iterators only
        self, request: relay_pb2.RelayRequest, context: Context
    ) -> None:
        async with errors_as_status(context):
            tokens = self._handler.relay(request_from_proto(request.request), request.num_relays)
            await send_tokens(tokens, context)
