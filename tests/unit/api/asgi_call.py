"""One HTTP request by hand, to look at a response while it is being sent, and to hang up on it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from starlette.types import ASGIApp, Message

DEADLINE_S = 5.0


class AsgiCall:
    """A running request. Reads wait for what they want, up to a deadline."""

    def __init__(self, body: bytes) -> None:
        self.status: int | None = None
        self._sent: asyncio.Queue[Message] = asyncio.Queue()
        self._received: asyncio.Queue[Message] = asyncio.Queue()
        self._received.put_nowait({"type": "http.request", "body": body, "more_body": False})

    def hang_up(self) -> None:
        self._received.put_nowait({"type": "http.disconnect"})

    async def begins(self) -> int:
        """The status, once the response has begun."""
        async with asyncio.timeout(DEADLINE_S):
            message = await self._sent.get()
        return int(message["status"])

    async def event(self) -> str:
        """The next thing that is sent: an event or a comment, without its empty line."""
        async with asyncio.timeout(DEADLINE_S):
            while True:
                message = await self._sent.get()
                if message["type"] == "http.response.start":
                    self.status = message["status"]
                elif message["body"]:
                    return bytes(message["body"]).decode().removesuffix("\n\n")

    def is_silent(self) -> bool:
        return self._sent.empty()


@asynccontextmanager
async def asgi_call(app: ASGIApp, path: str, body: Mapping[str, Any] | None = None) -> AsyncIterator[AsgiCall]:
    """A POST with a body, else a GET. Hangs up at the end and waits until the app is done with it."""
    call = AsgiCall(json.dumps(body).encode() if body is not None else b"")
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST" if body is not None else "GET",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [(b"host", b"127.0.0.1:1"), (b"content-type", b"application/json")],
    }

    async def send(message: Message) -> None:
        call._sent.put_nowait(message)

    async def run() -> None:
        await app(scope, call._received.get, send)

    running = asyncio.create_task(run())
    try:
        yield call
    finally:
        call.hang_up()
        async with asyncio.timeout(DEADLINE_S):
            await running
