"""Server-sent events (WHATWG HTML, section 9.2) as bytes."""

from __future__ import annotations

import json

MEDIA_TYPE = "text/event-stream"
KEEP_ALIVE = b": keep-alive\n\n"
"""A comment: clients skip it."""


def sse_event(data: object, *, event: str | None = None, event_id: int | None = None) -> bytes:
    """Write one event with `data` as a single line of JSON."""
    fields = (f"id: {event_id}\n" if event_id is not None else "") + (f"event: {event}\n" if event else "")
    payload = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return f"{fields}data: {payload}\n\n".encode()
