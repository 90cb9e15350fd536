"""A second, tiny dialect over the same answers: other errors, another framing, the key in a header of its own."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator, Sequence

import httpx2
import pytest
from fastapi import APIRouter
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from exo_lite.api.access import tenant_of
from exo_lite.api.answering import respond
from exo_lite.api.app import create_app
from exo_lite.api.bodies import read_body
from exo_lite.api.daemon_api import HeldModel
from exo_lite.api.dialects import Dialect, Framing, dialect_of
from exo_lite.api.failures import Failure
from exo_lite.api.gate import MAX_BODY_BYTES
from exo_lite.api.generation_context import GenerationContext
from exo_lite.api.openai.dialect import OPENAI
from exo_lite.api.pieces import Collected, Piece
from exo_lite.api.prompts import Prompt
from exo_lite.api.rendering import Reply
from exo_lite.api.usage import Usage
from exo_lite.domain.chat import AnswerOptions, ChatRequest
from exo_lite.domain.errors import NodeLost, NotReady
from exo_lite.domain.request import Sampling
from tests.unit.api.asgi_call import asgi_call
from tests.unit.api.scripted_daemon import MODEL, ScriptedDaemon

SAY = {"model": MODEL, "say": "Hi"}
PROMPT = tuple(map(ord, "<user>Hi<assistant>"))


def line(document: object) -> bytes:
    return json.dumps(document).encode() + b"\n"


def problem(failure: Failure) -> dict[str, object]:
    return {"problem": failure.message, "kind": failure.code}


LINES = Framing("application/x-ndjson", b"", lambda failure: line(problem(failure)))


class SayBody(BaseModel):
    model: str
    say: str
    in_lines: bool = False
    functions: list[dict[str, object]] = []


class SayRendering:
    def __init__(self, model: HeldModel, prompts: Sequence[Prompt]) -> None:
        self._told = {"made_by": model.fingerprint}

    def whole(self, answers: Sequence[Collected], usage: Usage) -> dict[str, object]:
        return {"said": answers[0].text, "tokens": usage.num_answer_tokens, **self._told}

    def piece(self, index: int, piece: Piece) -> Iterator[bytes]:
        if piece.text:
            yield line({"said": piece.text})

    def end(self, usage: Usage) -> Iterator[bytes]:
        yield line({"tokens": usage.num_answer_tokens, **self._told})


def say_routes(context: GenerationContext) -> APIRouter:
    router = APIRouter()

    @router.post("/say", response_model=None)
    async def say(request: Request) -> Response:
        body = await read_body(request, SayBody, context.text_work)
        options = AnswerOptions(body.model, Sampling(temperature=0.0), tenant=tenant_of(request.scope))
        messages = ({"role": "user", "content": body.say},)
        asked = ChatRequest(options, messages, tools=tuple(body.functions))
        return await respond(context, request, asked, Reply(SayRendering, LINES, body.in_lines))

    return router


SAYING = Dialect(say_routes, LINES, problem, paths=frozenset({"/say"}), key_headers=("x-say-key",))
BOTH = (OPENAI, SAYING)


@pytest.fixture
async def client(daemon: ScriptedDaemon) -> AsyncIterator[httpx2.AsyncClient]:
    app = create_app(daemon, api_key=None, allowed_hosts=["daemon.test"], dialects=BOTH)
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://daemon.test") as http:
        yield http


def lines_of(response: httpx2.Response) -> list[dict[str, object]]:
    return [json.loads(one) for one in response.text.splitlines()]


async def test_whole_answers_come_out_of_the_same_code(client: httpx2.AsyncClient, daemon: ScriptedDaemon) -> None:
    response = await client.post("/say", json=SAY)
    assert response.json() == {"said": "Hello", "tokens": 6, "made_by": f"fp_{MODEL}"}
    [asked] = daemon.asked
    assert (asked.token_ids, asked.sampling.temperature, asked.max_tokens) == (PROMPT, 0.0, 64 - len(PROMPT))


async def test_streams_have_their_own_framing(client: httpx2.AsyncClient) -> None:
    response = await client.post("/say", json={**SAY, "in_lines": True})
    assert response.headers["content-type"] == "application/x-ndjson"
    *pieces, end = lines_of(response)
    assert "".join(str(piece["said"]) for piece in pieces) == "Hello"
    assert end == {"tokens": 6, "made_by": f"fp_{MODEL}"}


@pytest.mark.parametrize("in_lines", [False, True])
async def test_a_failure_before_the_first_token_has_its_form_and_status(
    client: httpx2.AsyncClient, daemon: ScriptedDaemon, in_lines: bool
) -> None:
    daemon.error = NotReady("loading")
    response = await client.post("/say", json={**SAY, "in_lines": in_lines})
    assert (response.status_code, response.json()) == (503, {"problem": "loading", "kind": "not_ready"})
    assert int(response.headers["retry-after"]) >= 1


async def test_a_failure_in_mid_stream_is_framed_as_the_pieces_are(
    client: httpx2.AsyncClient, daemon: ScriptedDaemon
) -> None:
    daemon.error, daemon.error_after = NodeLost("node-b is gone"), 2
    response = await client.post("/say", json={**SAY, "in_lines": True})
    assert lines_of(response) == [{"said": "H"}, {"said": "e"}, {"problem": "node-b is gone", "kind": "node_lost"}]


@pytest.mark.parametrize(
    ("method", "content", "status", "kind"),
    [
        ("POST", b"{", 400, "invalid_request"),
        ("POST", json.dumps({**SAY, "model": "nobody"}).encode(), 404, "model_not_found"),
        ("POST", json.dumps({**SAY, "functions": [{"name": "look"}]}).encode(), 400, "invalid_request"),
        ("POST", b" " * (MAX_BODY_BYTES + 1), 413, "request_too_large"),
        ("GET", b"", 405, "method_not_allowed"),
    ],
)
async def test_whoever_refuses_does_so_in_the_form_of_the_path(
    client: httpx2.AsyncClient, daemon: ScriptedDaemon, method: str, content: bytes, status: int, kind: str
) -> None:
    response = await client.request(method, "/say", content=content)
    assert (response.status_code, response.json().keys()) == (status, {"problem", "kind"})
    assert response.json()["kind"] == kind
    assert daemon.asked == []


async def test_other_paths_keep_the_form_of_the_first_dialect(client: httpx2.AsyncClient) -> None:
    for path in ("/v1/completions", "/say/more", "/api/v1/plan"):
        response = await client.post(path, content=b"{")
        assert response.json()["error"].keys() == {"message", "type", "param", "code"}
    assert dialect_of("/say", BOTH) is SAYING
    assert dialect_of("/say/", BOTH) is OPENAI


async def test_the_key_may_stand_in_a_header_of_the_dialect_at_its_paths(daemon: ScriptedDaemon) -> None:
    app = create_app(daemon, api_key="the-key", allowed_hosts=[], dialects=BOTH)
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://daemon.test") as client:
        for headers in ({"X-Say-Key": "the-key"}, {"Authorization": "Bearer the-key"}):
            assert (await client.post("/say", json=SAY, headers=headers)).status_code == 200
        refused = await client.post("/say", json=SAY, headers={"X-Say-Key": "another"})
        assert (refused.status_code, refused.json()["kind"]) == (401, "unauthorized")
        assert (await client.get("/v1/models", headers={"X-Say-Key": "the-key"})).status_code == 401
    first, second = daemon.asked
    assert first.tenant == second.tenant != ""


async def test_a_silence_that_nothing_may_fill_still_begins_the_response() -> None:
    daemon = ScriptedDaemon(pause=asyncio.Event())
    app = create_app(daemon, api_key=None, allowed_hosts=[], keep_alive_s=0.01, dialects=BOTH)
    async with asgi_call(app, "/say", {**SAY, "in_lines": True}) as call:
        assert await call.begins() == 200
        assert daemon.pause is not None
        daemon.pause.set()
        assert json.loads(await call.event()) == {"said": "H"}
