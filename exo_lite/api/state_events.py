"""GET /api/v1/events: the state document on connect, then the parts of it that change."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import aclosing

from fastapi import APIRouter
from starlette.responses import Response

from exo_lite.api.daemon_api import DaemonApi
from exo_lite.api.limits import MAX_EVENT_STREAMS
from exo_lite.api.openai.framing import FRAMING
from exo_lite.api.sse import sse_event
from exo_lite.api.streamed_response import StreamedResponse, Write
from exo_lite.domain.errors import DaemonBusy

MIN_INTERVAL_S = 0.25
"""The least time between two changes: at most four a second, however busy the cluster."""
KEEP_ALIVE_S = 2.0
"""Short, so that the page can tell a quiet cluster from a dead connection within seconds."""

STALL_S = 30.0
"""A client that reads nothing for this long gives its place to another."""


def changed_keys(sent: Mapping[str, object], document: Mapping[str, object]) -> dict[str, object]:
    """The top-level keys of `document` whose values differ from those in `sent`."""
    return {key: value for key, value in document.items() if key not in sent or sent[key] != value}


def events_router(daemon: DaemonApi, *, max_streams: int = MAX_EVENT_STREAMS) -> APIRouter:
    """Serve at most `max_streams` at once: further ones get 503, code `daemon_busy`."""
    router = APIRouter()
    num_streams = 0

    async def take_place(write: Write) -> None:
        nonlocal num_streams
        if num_streams >= max_streams:
            raise DaemonBusy(
                f"{num_streams} clients follow this daemon's events, as many as it can serve: try again later"
            )
        num_streams += 1
        try:
            await follow(write)
        finally:
            num_streams -= 1

    async def follow(write: Write) -> None:
        sent = dict(daemon.state())
        event_id = 1
        await write(sse_event(sent, event="state", event_id=event_id))
        async with aclosing(daemon.changes()) as changes:
            async for _ in changes:
                changed = changed_keys(sent, daemon.state())
                if not changed:
                    continue
                event_id += 1
                await write(sse_event(changed, event="change", event_id=event_id))
                sent |= changed
                await asyncio.sleep(MIN_INTERVAL_S)

    @router.get("/api/v1/events", response_model=None)
    async def events() -> Response:
        return StreamedResponse(take_place, framing=FRAMING, keep_alive_s=KEEP_ALIVE_S, stall_s=STALL_S)

    return router
