from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import httpx2
import pytest
from starlette.types import ASGIApp, Receive, Scope, Send

from exo_lite.api import server
from exo_lite.api.app import create_app
from exo_lite.api.server import MAX_HEADER_BYTES, serve_http
from tests.unit.api.scripted_backend import ScriptedBackend

DEADLINE_S = 10


class SlowApp:
    """Answers once it is told to; notices hang-ups."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.go = asyncio.Event()
        self.hung_up = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        self.asked.set()
        watching = asyncio.create_task(self._watch(receive))
        await self.go.wait()
        watching.cancel()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"4")]})
        await send({"type": "http.response.body", "body": b"done"})

    async def _watch(self, receive: Receive) -> None:
        if (await receive())["type"] == "http.disconnect":
            self.hung_up.set()
            self.go.set()


@asynccontextmanager
async def served(app: ASGIApp) -> AsyncIterator[tuple[int, asyncio.Task[None]]]:
    """The port and the serving task; it is cancelled at the end."""
    sock = socket.create_server(("127.0.0.1", 0))
    port = sock.getsockname()[1]
    serving = asyncio.create_task(serve_http(app, sock))
    try:
        async with asyncio.timeout(DEADLINE_S):
            yield port, serving
    finally:
        serving.cancel()
        with suppress(asyncio.CancelledError):
            await serving


async def test_running_answers_end_before_the_server_does() -> None:
    app = SlowApp()
    async with served(app) as (port, serving), httpx2.AsyncClient(trust_env=False) as client:
        answer = asyncio.create_task(client.get(f"http://127.0.0.1:{port}/"))
        await app.asked.wait()
        serving.cancel()
        app.go.set()
        response = await answer
        assert response.text == "done"
        assert "server" not in response.headers
        with pytest.raises(asyncio.CancelledError):
            await serving
        with pytest.raises(httpx2.ConnectError):
            await client.get(f"http://127.0.0.1:{port}/")


async def test_signals_stay_with_the_daemon() -> None:
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    app = SlowApp()
    async with served(app) as (port, _), httpx2.AsyncClient(trust_env=False) as client:
        app.go.set()
        await client.get(f"http://127.0.0.1:{port}/")
        assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


async def test_a_hang_up_reaches_the_app() -> None:
    app = SlowApp()
    async with served(app) as (port, _):
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        await app.asked.wait()
        writer.close()
        await app.hung_up.wait()


async def test_a_body_with_two_lengths_is_refused_and_nothing_after_it_is_read() -> None:
    """Two readers may take two lengths of it: behind a proxy, the rest of a body would be the next one's request."""
    app = create_app(ScriptedBackend(), api_key=None, allowed_hosts=["x"])
    smuggled = b"GET /v1/models HTTP/1.1\r\nHost: x\r\n\r\n"
    head = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    async with served(app) as (port, _):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(head + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + smuggled)
        reply = await reader.read()
        writer.close()
    assert reply.startswith(b"HTTP/1.1 400")
    assert reply.count(b"HTTP/1.1") == 1


async def test_headers_have_a_limit() -> None:
    async with served(SlowApp()) as (port, _):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\nX-Long: " + b"x" * (MAX_HEADER_BYTES + 1))
        status = await reader.readline()
        assert status.startswith(b"HTTP/1.1 4")
        writer.close()


@pytest.mark.parametrize("beginning", [b"", b"GET / HTTP/1.1\r\nHost:"])
async def test_a_connection_without_a_request_is_closed(monkeypatch: pytest.MonkeyPatch, beginning: bytes) -> None:
    monkeypatch.setattr(server, "HEADER_TIMEOUT_S", 0.05)
    async with served(SlowApp()) as (port, _):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(beginning)
        assert await reader.read() == b""
        writer.close()
