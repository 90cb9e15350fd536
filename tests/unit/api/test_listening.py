"""The daemon's HTTP port: what its connections are like."""

from __future__ import annotations

import asyncio
import socket
from contextlib import closing

from exo_lite.api.listening import bind_http


async def test_connections_send_at_once_and_do_not_wait_for_acknowledgements():
    """A token or a refusal is small and comes in two parts: Nagle's algorithm would hold the second back for 40 ms."""
    accepted: asyncio.Future[asyncio.StreamWriter] = asyncio.get_running_loop().create_future()
    sock = bind_http(("127.0.0.1", 0), api_key=None)
    async with await asyncio.start_server(lambda _, writer: accepted.set_result(writer), sock=sock):
        _, client = await asyncio.open_connection(*sock.getsockname()[:2])
        with closing(client), closing(await accepted) as server:
            connection = server.get_extra_info("socket")
            assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
