"""Responses that are written bit by bit, in any dialect's framing, with an end for every client that goes away."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import TypeVar

from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from exo_lite.api.dialects import Framing
from exo_lite.api.failures import failure_of
from exo_lite.api.log import log_unexpected

Write = Callable[[bytes], Awaitable[None]]
Produce = Callable[[Write], Coroutine[object, object, None]]
T = TypeVar("T")

STALL_S = 300.0
"""How long a client may leave what it was sent unread."""


async def until_disconnected(receive: Receive, work: Coroutine[object, object, T]) -> T:
    """Return what `work` does; it is cancelled and ClientDisconnect raised as soon as the client is gone.

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


class StreamedResponse(Response):
    """A response that `produce` writes, with keep-alives in the silences.

    The headers go out with the first bytes: what fails earlier is raised and becomes a plain HTTP error; what fails
    later is written as the framing says and ends the stream. A client that goes away cancels `produce`.
    """

    def __init__(
        self,
        produce: Produce,
        *,
        framing: Framing,
        keep_alive_s: float,
        stall_s: float = STALL_S,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        # nginx would collect the events otherwise
        super().__init__(headers={**(headers or {}), "X-Accel-Buffering": "no"}, media_type=framing.media_type)
        del self.headers["content-length"]
        self._produce = produce
        self._framing = framing
        self._keep_alive_s = keep_alive_s
        self._stall_s = stall_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await until_disconnected(receive, self._run(_BodyWriter(send, self.raw_headers, self._stall_s)))

    async def _run(self, writer: _BodyWriter) -> None:
        ticking = asyncio.create_task(self._fill_silences(writer))
        try:
            await self._produce(writer.write)
        except ClientDisconnect:
            raise  # there is nobody to tell
        except Exception as error:  # the top of a stream: what broke off is told in the form that its clients know
            if not writer.has_started:
                raise
            log_unexpected(error)
            await writer.write(self._framing.failure(failure_of(error)))
        finally:
            await _cancel(ticking)
        await writer.close()

    async def _fill_silences(self, writer: _BodyWriter) -> None:
        while True:
            try:
                async with asyncio.timeout(self._keep_alive_s):
                    await writer.written.wait()
            except TimeoutError:
                await writer.write(self._framing.keep_alive)
            writer.written.clear()


class _BodyWriter:
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
