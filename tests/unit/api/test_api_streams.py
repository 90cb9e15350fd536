from __future__ import annotations

import asyncio
import json

import pytest

from exo_lite.api.app import create_app
from exo_lite.api.sse import sse_event
from exo_lite.domain.errors import ModelDoesNotFit, NodeLost
from tests.unit.api.asgi_call import asgi_call
from tests.unit.api.scripted_daemon import MODEL, ScriptedDaemon
from tests.waiting import until

CHAT = "/v1/chat/completions"
ASK = {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}], "stream": True}


def paused_daemon(pause_at: int) -> ScriptedDaemon:
    return ScriptedDaemon(pause=asyncio.Event(), pause_at=pause_at)


async def test_silence_before_the_first_token_is_filled_with_comments() -> None:
    daemon = paused_daemon(0)
    app = create_app(daemon, api_key=None, allowed_hosts=[], keep_alive_s=0.01)
    async with asgi_call(app, CHAT, ASK) as call:
        assert await call.event() == ": keep-alive"
        assert await call.event() == ": keep-alive"
        assert call.status == 200
        assert daemon.pause is not None
        daemon.pause.set()
        while (event := await call.event()).startswith(":"):
            pass
        assert json.loads(event.removeprefix("data: "))["choices"][0]["delta"]["role"] == "assistant"


async def test_a_failure_after_a_comment_is_an_error_event() -> None:
    daemon = paused_daemon(0)
    daemon.error = NodeLost("node-b is gone")
    app = create_app(daemon, api_key=None, allowed_hosts=[], keep_alive_s=0.01)
    async with asgi_call(app, CHAT, ASK) as call:
        assert await call.event() == ": keep-alive"
        assert daemon.pause is not None
        daemon.pause.set()
        while (event := await call.event()).startswith(":"):
            pass
        assert json.loads(event.removeprefix("data: "))["error"]["message"] == "node-b is gone"


async def test_the_wait_for_a_model_is_filled_with_comments_too() -> None:
    daemon = ScriptedDaemon(loading=asyncio.Event())
    app = create_app(daemon, api_key=None, allowed_hosts=[], keep_alive_s=0.01)
    async with asgi_call(app, CHAT, {**ASK, "keep_alive": "5m"}) as call:
        assert await call.event() == ": keep-alive"
        assert (call.status, daemon.keep_alives_s) == (200, [300.0])
        assert daemon.loading is not None
        daemon.loading.set()
        while (event := await call.event()).startswith(":"):
            pass
        assert json.loads(event.removeprefix("data: "))["choices"][0]["delta"]["role"] == "assistant"


async def test_a_load_that_fails_after_a_comment_is_an_error_event() -> None:
    daemon = ScriptedDaemon(loading=asyncio.Event(), load_error=ModelDoesNotFit("short by 2 GiB"))
    app = create_app(daemon, api_key=None, allowed_hosts=[], keep_alive_s=0.01)
    async with asgi_call(app, CHAT, ASK) as call:
        assert await call.event() == ": keep-alive"
        assert daemon.loading is not None
        daemon.loading.set()
        while (event := await call.event()).startswith(":"):
            pass
        assert json.loads(event.removeprefix("data: "))["error"]["code"] == "model_does_not_fit"


@pytest.mark.parametrize("is_streamed", [True, False])
async def test_a_model_is_held_until_the_client_goes_away(is_streamed: bool) -> None:
    daemon = paused_daemon(3)
    app = create_app(daemon, api_key=None, allowed_hosts=[])
    async with asgi_call(app, CHAT, {**ASK, "stream": is_streamed}) as call:
        await daemon.started.get()
        assert daemon.num_held == 1
        call.hang_up()
        await until(lambda: daemon.num_held == 0, "the model is let go")


@pytest.mark.parametrize("pause_at", [0, 3])
@pytest.mark.parametrize("is_streamed", [True, False])
async def test_a_client_that_goes_away_ends_the_generation(pause_at: int, is_streamed: bool) -> None:
    daemon = paused_daemon(pause_at)
    app = create_app(daemon, api_key=None, allowed_hosts=[])
    async with asgi_call(app, CHAT, {**ASK, "stream": is_streamed}) as call:
        async with asyncio.timeout(5):
            await daemon.started.get()
            if is_streamed and pause_at:
                await call.event()
            call.hang_up()
            await daemon.closed.wait()
    assert daemon.num_open == 0


async def test_all_prompts_of_a_call_end_with_its_client() -> None:
    daemon = paused_daemon(1)
    app = create_app(daemon, api_key=None, allowed_hosts=[])
    async with asgi_call(app, "/v1/completions", {"model": MODEL, "prompt": ["a", "b", "c"]}) as call:
        async with asyncio.timeout(5):
            for _ in range(3):
                await daemon.started.get()
        call.hang_up()
    assert daemon.num_open == 0


def test_an_event_is_one_line_of_json() -> None:
    event = sse_event({"text": "two\nlines\r\u2028ü"}, event="change", event_id=7)
    assert event == 'id: 7\nevent: change\ndata: {"text":"two\\nlines\\r\u2028ü"}\n\n'.encode()
