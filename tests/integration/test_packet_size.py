"""A way that loses large packets: a relay on loopback that swallows whatever comes in large pieces."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest

from exo_lite.domain.errors import LargePacketsLost, NodeLost
from exo_lite.domain.ids import BootId, NodeId
from exo_lite.domain.node import PROTOCOL_VERSION, NodeIdentity
from exo_lite.node.packet_size import check_large_messages
from exo_lite.transport.node_server import serve_node
from tests.loopback import PEERS, handlers_of

TIMEOUT_S = 1.0
SMALL_BYTES = 1250


class Answering:
    """A daemon that says who it is."""

    def identity(self) -> NodeIdentity:
        return NodeIdentity(NodeId("b"), BootId("1"), "attic", "home", "1", PROTOCOL_VERSION, ("127.0.0.1:1",), "x")


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, drops_large: bool) -> None:
    with suppress(OSError):
        while data := await reader.read(65536):
            if drops_large and len(data) > SMALL_BYTES:
                await asyncio.Event().wait()  # TCP sends it again and again, and nothing behind it arrives
            writer.write(data)
            await writer.drain()


@asynccontextmanager
async def way_to(handler: Any, *, drops_large: str) -> AsyncIterator[str]:
    """The address of a relay; `drops_large`: on the way "there", "back" or not at all."""
    server = PEERS.node_server()
    serve_node(server, handlers_of(handler))
    port = PEERS.bind(server, "127.0.0.1", 0)
    await server.start()
    tasks: list[asyncio.Task[None]] = []
    writers: list[asyncio.StreamWriter] = []

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", port)
        writers.extend((writer, far_writer))
        there = _pass_on(reader, far_writer, drops_large=drops_large == "there")
        back = _pass_on(far_reader, writer, drops_large=drops_large == "back")
        tasks.extend(asyncio.ensure_future(one) for one in (there, back))

    listening = await asyncio.start_server(relay, "127.0.0.1", 0)
    try:
        yield f"127.0.0.1:{listening.sockets[0].getsockname()[1]}"
    finally:
        listening.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for writer in writers:
            writer.transport.abort()
        await asyncio.gather(*(writer.wait_closed() for writer in writers), return_exceptions=True)
        await server.stop(grace=None)


@pytest.mark.parametrize("direction", ["there", "back"])
async def test_a_way_that_loses_large_packets_is_told_by_that(direction: str):
    async with way_to(Answering(), drops_large=direction) as address, PEERS.node(address) as client:
        await client.identify(timeout_s=5.0)
        with pytest.raises(LargePacketsLost, match=r"attic at .* answers small messages, but none of 8 KiB"):
            await check_large_messages(PEERS, client, "attic", timeout_s=TIMEOUT_S)


async def test_a_way_that_carries_all_is_fine():
    async with way_to(Answering(), drops_large="") as address, PEERS.node(address) as client:
        await check_large_messages(PEERS, client, "attic", timeout_s=5.0)


async def test_a_peer_that_answers_nothing_is_lost_and_not_accused_of_its_packets():
    async with way_to(Answering(), drops_large="") as address:
        client = PEERS.node(address)
    async with client:
        with pytest.raises(NodeLost):
            await check_large_messages(PEERS, client, "attic", timeout_s=TIMEOUT_S)
