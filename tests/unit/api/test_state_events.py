from __future__ import annotations

import asyncio
import json

import pytest
from starlette.requests import ClientDisconnect
from starlette.types import Message

from exo_lite.api.app import create_app
from exo_lite.api.limits import HttpLimits
from exo_lite.api.openai.framing import FRAMING
from exo_lite.api.state_events import changed_keys
from exo_lite.api.streamed_response import StreamedResponse, Write
from tests.unit.api.asgi_call import AsgiCall, asgi_call
from tests.unit.api.scripted_daemon import STATE, ScriptedDaemon

PATH = "/api/v1/events"


async def next_event(call: AsgiCall) -> dict[str, str]:
    while (text := await call.event()).startswith(":"):
        pass
    return dict(line.split(": ", 1) for line in text.splitlines())


async def test_the_whole_state_comes_first_then_only_what_changes(daemon: ScriptedDaemon) -> None:
    app = create_app(daemon, api_key=None, allowed_hosts=[])
    async with asgi_call(app, PATH) as call:
        first = await next_event(call)
        assert (first["event"], first["id"]) == ("state", "1")
        assert json.loads(first["data"]) == STATE

        daemon.changed.put_nowait(True)  # nothing did
        daemon.document = {**STATE, "epoch": 4}
        daemon.changed.put_nowait(True)
        second = await next_event(call)
        assert (second["event"], second["id"]) == ("change", "2")
        assert json.loads(second["data"]) == {"epoch": 4}

        daemon.document = {**daemon.document, "models": [], "leader": "n2"}
        daemon.changed.put_nowait(True)
        third = await next_event(call)
        assert json.loads(third["data"]) == {"models": [], "leader": "n2"}


async def test_the_stream_ends_when_the_daemon_drains(daemon: ScriptedDaemon) -> None:
    app = create_app(daemon, api_key=None, allowed_hosts=[])
    daemon.changed.put_nowait(False)
    async with asgi_call(app, PATH) as call:
        await next_event(call)


def test_changed_keys_are_new_or_different() -> None:
    assert changed_keys({"a": 1, "b": [1]}, {"a": 1, "b": [2], "c": None}) == {"b": [2], "c": None}


async def test_one_stream_too_many_is_told_to_come_again(daemon: ScriptedDaemon) -> None:
    app = create_app(daemon, api_key=None, allowed_hosts=[], limits=HttpLimits(event_streams=2))
    async with asgi_call(app, PATH) as first, asgi_call(app, PATH) as second:
        for call in (first, second):
            assert (await next_event(call))["event"] == "state"
        async with asgi_call(app, PATH) as third:
            assert json.loads(await third.event())["error"]["code"] == "daemon_busy"
            assert third.status == 503
    async with asgi_call(app, PATH) as call:
        assert (await next_event(call))["event"] == "state"


async def test_a_client_that_does_not_read_leaves_its_place() -> None:
    async def produce(write: Write) -> None:
        while True:
            await write(b"data: 1\n\n")

    async def never_read(message: Message) -> None:
        if message["type"] == "http.response.body":
            await asyncio.Event().wait()

    stream = StreamedResponse(produce, framing=FRAMING, keep_alive_s=1000.0, stall_s=0.01)
    with pytest.raises(ClientDisconnect):
        await stream({"type": "http"}, asyncio.Queue[Message]().get, never_read)
