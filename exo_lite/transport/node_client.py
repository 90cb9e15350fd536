"""Calls to another daemon."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable
from typing import TypeVar

import grpc

from exo_lite.domain.heartbeat import Heartbeat
from exo_lite.domain.ids import BootId, ModelId, NodeId
from exo_lite.domain.load_options import LoadRequest
from exo_lite.domain.node import NodeIdentity, NodeStatus
from exo_lite.domain.pipeline import ConnectOrder
from exo_lite.domain.placement import Instance, ModelDescription
from exo_lite.domain.request import GenerateRequest, Token
from exo_lite.transport import cluster_codec as codec
from exo_lite.transport.errors import errors_from_status
from exo_lite.transport.step_codec import request_to_proto
from exo_lite.transport.token_stream import received_tokens
from exo_lite.transport.v1 import node_pb2, relay_pb2
from exo_lite.transport.v1.node_pb2_grpc import NodeStub
from exo_lite.transport.v1.relay_pb2_grpc import RelayStub

T = TypeVar("T")

HEARTBEAT_BYTES = 1600
"""The least size of a heartbeat, more than an Ethernet frame: a link that loses large packets counts as broken."""


class NodeClient:
    """One daemon at one address. Every call raises what the other side raised, or NodeLost."""

    def __init__(self, address: str, channel: grpc.aio.Channel) -> None:
        """`channel` leads to `address`, and is closed with the client."""
        self.address = address
        self._channel = channel
        self._stub = NodeStub(channel)

    async def __aenter__(self) -> NodeClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        await self._channel.close()

    async def identify(self, *, timeout_s: float, padding_bytes: int = 0) -> NodeIdentity:
        """Return the identity of the node there; `padding_bytes` makes both messages that large."""
        request = node_pb2.IdentifyRequest(padding=bytes(padding_bytes))
        reply = await self._answer(self._stub.Identify(request, timeout=timeout_s))
        return codec.identity_from_proto(reply)

    async def handshake(self, status: NodeStatus, *, timeout_s: float) -> NodeStatus:
        request = node_pb2.HandshakeRequest(status=codec.node_status_to_proto(status))
        return codec.node_status_from_proto(await self._answer(self._stub.Handshake(request, timeout=timeout_s)))

    async def refuse(self, reason: str, *, timeout_s: float) -> None:
        await self._answer(self._stub.Refuse(node_pb2.RefuseRequest(reason=reason), timeout=timeout_s))

    async def heartbeat(self, heartbeat: Heartbeat, *, timeout_s: float) -> Heartbeat:
        request = codec.heartbeat_to_proto(heartbeat)
        request.padding = bytes(max(0, HEARTBEAT_BYTES - request.ByteSize()))
        return codec.heartbeat_from_proto(await self._answer(self._stub.Heartbeat(request, timeout=timeout_s)))

    async def request_ping(self, node_id: NodeId, *, timeout_s: float) -> bool:
        reply = await self._answer(self._stub.RequestPing(node_pb2.PingRequest(node_id=node_id), timeout=timeout_s))
        return reply.is_reached

    async def leave(self, node_id: NodeId, boot_id: BootId, *, timeout_s: float) -> None:
        request = node_pb2.LeaveRequest(node_id=node_id, boot_id=boot_id)
        await self._answer(self._stub.Leave(request, timeout=timeout_s))

    async def describe_model(self, model_id: ModelId, *, timeout_s: float) -> ModelDescription:
        request = node_pb2.DescribeModelRequest(model_id=model_id)
        return codec.description_from_proto(await self._answer(self._stub.DescribeModel(request, timeout=timeout_s)))

    async def place(self, model_id: ModelId, request: LoadRequest, *, timeout_s: float) -> Instance:
        reply = await self._answer(self._stub.Place(codec.load_request_to_proto(model_id, request), timeout=timeout_s))
        return codec.instance_from_proto(reply)

    async def unplace(self, model_id: ModelId, *, timeout_s: float) -> None:
        await self._answer(self._stub.Unplace(node_pb2.UnplaceRequest(model_id=model_id), timeout=timeout_s))

    async def connect_shard(self, node_id: NodeId, order: ConnectOrder, *, timeout_s: float) -> None:
        """Send an order to the node with this id, at this address or behind it."""
        request = codec.order_to_proto(order)
        request.node_id = node_id
        await self._answer(self._stub.ConnectShard(request, timeout=timeout_s))

    def relay(self, request: GenerateRequest, num_relays: int) -> AsyncGenerator[Token, None]:
        """The answer of a driver out of this node's reach. Closing the generator cancels the request everywhere."""
        message = relay_pb2.RelayRequest(request=request_to_proto(request), num_relays=num_relays)
        return received_tokens(lambda: RelayStub(self._channel).Generate(message), peer=self.address)

    async def _answer(self, call: Awaitable[T]) -> T:
        with errors_from_status(self.address):
            return await call
