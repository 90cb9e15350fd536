"""Server-sent events (WHATWG HTML, section 9.2), with an end for every client that goes away."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import TypeVar

from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from exo_lite.api.errors import failure_of
from exo_lite.api.log import log_unexpected

Write = Callable[[bytes], Awaitable[None]]
Produce = Callable[[Write], Coroutine[object, object, None]]
T = TypeVar("T")

KEEP_ALIVE = b": keep-alive\n\n"
DONE = b"data: [DONE]\n\n"
STALL_S = 300.0
"""How long a client may leave what it was sent unread."""


def sse_event(data: object, *, event: str | None = None, event_id: int | None = None) -> bytes:
    """One event with `data` as a single line of JSON."""
    head = (f"id: {event_id}\n" if event_id is not None else "") + (f"event: {event}\n" if event else "")
    payload = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return f"{head}data: {payload}\n\n".encode()


async def until_disconnected(receive: Receive, work: Coroutine[object, object, T]) -> T:
    """What `work` returns; it is cancelled and ClientDisconnect raised as soon as the client is gone.

    The request's body must have been read.
    """
    working = asyncio.create_task(work)
    watching = asyncio.create_task(_disconnected(receive))
    try:
        await asyncio.wait({working, watching}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise ClientDisconnect
    finally:
        await _cancel(working, watching)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _cancel(*tasks: asyncio.Task[object]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


class EventStream(Response):
    """Events written by `produce`, with comments in the silences.

    The headers go out with the first event or the first comment: what fails earlier is raised and becomes a plain HTTP
    error; what fails later becomes an `error` event and ends the stream. A client that goes away cancels `produce`.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        produce: Produce,
        *,
        keep_alive_s: float,
        stall_s: float = STALL_S,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        # nginx would collect the events otherwise
        super().__init__(headers={**(headers or {}), "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._produce = produce
        self._keep_alive_s = keep_alive_s
        self._stall_s = stall_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await until_disconnected(receive, self._run(_Outlet(send, self.raw_headers, self._stall_s)))

    async def _run(self, outlet: _Outlet) -> None:
        ticking = asyncio.create_task(self._fill_silences(outlet))
        try:
            await self._produce(outlet.write)
        except ClientDisconnect:
            raise  # there is nobody to tell
        except Exception as error:  # the top of a stream: what broke off is told in the one error format
            if not outlet.has_started:
                raise
            log_unexpected(error)
            await outlet.write(sse_event(failure_of(error).document))
        finally:
            await _cancel(ticking)
        await outlet.close()

    async def _fill_silences(self, outlet: _Outlet) -> None:
        while True:
            try:
                async with asyncio.timeout(self._keep_alive_s):
                    await outlet.written.wait()
            except TimeoutError:
                await outlet.write(KEEP_ALIVE)
            outlet.written.clear()


class _Outlet:
    """The response's body: headers before the first bytes, one writer at a time."""

    def __init__(self, send: Send, headers: list[tuple[bytes, bytes]], stall_s: float) -> None:
        self.has_started = False
        self._stall_s = stall_s
        self.written = asyncio.Event()
        self._send = send
        self._headers = headers
        self._lock = asyncio.Lock()

    async def write(self, data: bytes) -> None:
        async with self._lock:
            await self._start()
            await self._deliver({"type": "http.response.body", "body": data, "more_body": True})
        self.written.set()

    async def close(self) -> None:
        async with self._lock:
            await self._start()
            await self._deliver({"type": "http.response.body", "body": b"", "more_body": False})

    async def _deliver(self, message: Message) -> None:
        """Raises ClientDisconnect for a client that does not read: what waits for it holds a place, and memory."""
        try:
            async with asyncio.timeout(self._stall_s):
                await self._send(message)
        except TimeoutError as error:
            raise ClientDisconnect from error

    async def _start(self) -> None:
        if not self.has_started:
            await self._send({"type": "http.response.start", "status": 200, "headers": self._headers})
            self.has_started = True
