from __future__ import annotations

import asyncio
import errno
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
from exo_lite.node.supervisor import Supervisor
from tests.loopback import CLOCK
from tests.unit.api.scripted_daemon import ScriptedDaemon

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
async def served(app: ASGIApp, max_connections: int = 100) -> AsyncIterator[tuple[int, asyncio.Task[None]]]:
    """The port and the serving task; it is cancelled at the end."""
    sock = socket.create_server(("127.0.0.1", 0))
    port = sock.getsockname()[1]
    serving = asyncio.create_task(serve_http(app, sock, Supervisor(CLOCK), max_connections=max_connections))
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
    app = create_app(ScriptedDaemon(), api_key=None, allowed_hosts=["x"])
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


class Descriptors:
    """A system that has none left for so many tries to accept a connection."""

    def __init__(self, num_failures: int, error: OSError) -> None:
        self.num_tries = 0
        self._num_failures = num_failures
        self._error = error

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        accept = asyncio.SelectorEventLoop.sock_accept

        async def failing(loop: asyncio.SelectorEventLoop, sock: socket.socket) -> tuple[socket.socket, object]:
            self.num_tries += 1
            if self.num_tries <= self._num_failures:
                raise self._error
            return await accept(loop, sock)

        monkeypatch.setattr(asyncio.SelectorEventLoop, "sock_accept", failing)


@pytest.mark.parametrize(
    "error", [OSError(errno.EMFILE, "Too many open files"), OSError(errno.EBADMSG, "what nobody expects")]
)
async def test_accepting_goes_on_after_errors_and_does_not_spin(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: OSError
) -> None:
    descriptors, app = Descriptors(3, error), SlowApp()
    descriptors.install(monkeypatch)
    app.go.set()
    async with served(app) as (port, _), httpx2.AsyncClient(trust_env=False) as client:
        assert (await client.get(f"http://127.0.0.1:{port}/")).text == "done"
    assert descriptors.num_tries <= 6
    records = [record for record in caplog.records if record.getMessage().startswith("accepting connections")]
    assert len(records) == 3
    assert all(record.exc_info is None for record in records)


async def test_the_connection_that_has_been_idle_for_longest_gives_way() -> None:
    app = SlowApp()
    async with served(app, max_connections=3) as (port, _):
        busy_reader, busy = await asyncio.open_connection("127.0.0.1", port)
        busy.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        await app.asked.wait()
        idle = [await asyncio.open_connection("127.0.0.1", port) for _ in range(3)]
        with suppress(ConnectionResetError):
            assert await idle[0][0].read() == b""  # closed: the fourth needed its place
        app.go.set()
        assert (await busy_reader.readline()).startswith(b"HTTP/1.1 200")
        for _, writer in (*idle, (busy_reader, busy)):
            writer.close()


async def test_where_all_connections_have_requests_the_new_one_is_closed() -> None:
    app = SlowApp()
    async with served(app, max_connections=1) as (port, _):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        await app.asked.wait()
        late_reader, late = await asyncio.open_connection("127.0.0.1", port)
        assert await late_reader.read() == b""
        app.go.set()
        assert (await reader.readline()).startswith(b"HTTP/1.1 200")
        writer.close()
        late.close()
