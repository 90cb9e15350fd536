"""uvicorn around the app, on a socket that is bound already, with limits and without its signal handlers."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial

import h11
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from exo_lite.api.limits import MAX_CONNECTIONS
from exo_lite.node.supervisor import Supervisor

MAX_HEADER_BYTES = 64 * 1024
HEADER_TIMEOUT_S = 15
"""The time from a connection to its first request's headers."""
KEEP_ALIVE_S = 60
"""An idle connection is closed after this time."""
FULL_PAUSE_S = 0.1
"""The pause between two tries to take a connection when the system has no descriptor or memory for it."""

_OUT_OF_RESOURCES = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


async def serve_http(
    app: ASGIApp,
    sock: socket.socket,
    supervisor: Supervisor,
    *,
    max_connections: int = MAX_CONNECTIONS,
    drain_timeout_s: int = 10,
) -> None:
    """Serve until cancelled; then take no more, and give running answers `drain_timeout_s` to end."""
    server = _Server(_config(app, drain_timeout_s))
    acceptor = _Acceptor(server, sock, max_connections, supervisor)
    serving = asyncio.create_task(server.serve(sockets=[]))
    accepting = asyncio.create_task(acceptor.run())
    try:
        await asyncio.shield(serving)
    finally:
        accepting.cancel()
        await asyncio.wait({accepting})
        sock.close()
        server.should_exit = True
        await serving


def _config(app: ASGIApp, drain_timeout_s: int) -> uvicorn.Config:
    config = uvicorn.Config(
        app,
        http=_DeadlineProtocol,
        ws="none",
        lifespan="off",
        log_config=None,
        log_level="critical",  # its log would quote clients; errors are logged by the app
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=drain_timeout_s,
        h11_max_incomplete_event_size=MAX_HEADER_BYTES,
    )
    config.load()
    return config


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to the daemon."""
        yield


class _Acceptor:
    """Takes connections, never more than fit: for one too many, the one that has been idle for longest goes.

    asyncio's own acceptor has no such bound, and logs a traceback for each try while descriptors are used up.
    """

    def __init__(self, server: _Server, sock: socket.socket, max_connections: int, supervisor: Supervisor) -> None:
        self._server = server
        self._sock = sock
        self._max_connections = max_connections
        self._supervisor = supervisor
        sock.setblocking(False)

    async def run(self) -> None:
        """Serve until cancelled."""
        await self._supervisor.keep("accepting connections", self._keep_accepting)

    async def _keep_accepting(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, _ = await loop.sock_accept(self._sock)
            except ConnectionAbortedError:
                continue  # its client was faster
            except OSError as error:
                if error.errno not in _OUT_OF_RESOURCES:
                    raise
                self._supervisor.note("accepting connections", error)
                _close_idle_longest(self._connections)
                await asyncio.sleep(FULL_PAUSE_S)
                continue
            await self._take(loop, connection)

    @property
    def _connections(self) -> set[_DeadlineProtocol]:
        return self._server.server_state.connections  # type: ignore[return-value]  # of the one kind that is made here

    async def _take(self, loop: asyncio.AbstractEventLoop, connection: socket.socket) -> None:
        if len(self._connections) >= self._max_connections and not _close_idle_longest(self._connections):
            connection.close()
            return
        try:
            await loop.connect_accepted_socket(self._protocol_factory(), connection)
        except OSError:
            connection.close()  # it broke meanwhile

    def _protocol_factory(self) -> Callable[[], _DeadlineProtocol]:
        return partial(_DeadlineProtocol, self._server.config, self._server.server_state, {})


def _close_idle_longest(connections: Iterable[_DeadlineProtocol]) -> bool:
    """Close the connection that has been idle longest; False if there is none."""
    idle = [connection for connection in connections if connection.is_idle]
    if not idle:
        return False
    min(idle, key=lambda connection: connection.active_at_s).give_way()
    return True


class _DeadlineProtocol(H11Protocol):
    """HTTP/1.1 that closes connections on which no request begins."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)  # type: ignore[arg-type]  # as asyncio declares it
        self.active_at_s = self.loop.time()
        self._deadline = self.loop.call_later(HEADER_TIMEOUT_S, self.transport.close)

    @property
    def is_idle(self) -> bool:
        """True if closing it loses nothing: no request is under way, or its client reads nothing more."""
        if self.transport.is_closing():
            return True
        # uvicorn declares no None, which it is before the first request
        has_answered = self.cycle is None or self.cycle.response_complete  # type: ignore[redundant-expr]
        return has_answered and self.transport.get_write_buffer_size() == 0

    def give_way(self) -> None:
        """Close an idle connection for a new one: it does not count from now on."""
        self.connections.discard(self)
        self.transport.abort()

    def handle_events(self) -> None:
        self.active_at_s = self.loop.time()
        super().handle_events()
        if self.conn.their_state is not h11.IDLE:
            self._deadline.cancel()

    def connection_lost(self, exc: Exception | None) -> None:
        self._deadline.cancel()
        super().connection_lost(exc)
