"""Bodies that would take a daemon's time or memory: refused before they are read, with one problem told."""

from __future__ import annotations

import json
import threading
import tracemalloc

import httpx2
import pytest
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from exo_lite.api.bodies import MAX_VALUES, check_num_values, parse_body
from exo_lite.api.load_bodies import LoadBody
from exo_lite.api.openai.request_bodies import MAX_MESSAGES, ChatBody, CompletionBody
from exo_lite.api.text_work import LONG_TEXT_CHARS, TextWork
from tests.unit.api.scripted_daemon import MODEL

MIB = 2**20


def body(**fields: object) -> bytes:
    return json.dumps({"model": MODEL, **fields}).encode()


@pytest.mark.parametrize(
    ("path", "content"),
    [
        ("/v1/completions", body(prompt=[1] * 600_000)),
        ("/v1/completions", body(prompt=[[1, 2]] * 200_000)),
        ("/v1/chat/completions", body(messages=[{"role": "user", "content": ""}] * 50_000, x=[1] * 200_000)),
        (f"/api/v1/models/{MODEL}/load", b"{" + b",".join(b'"%d":1' % number for number in range(190_000)) + b"}"),
        ("/api/v1/plan", body(nodes=[0] * 300_000)),
    ],
)
async def test_more_values_than_any_request_needs_are_refused_unread(
    client: httpx2.AsyncClient, path: str, content: bytes
):
    if content.count(b",") < MAX_VALUES:
        content = content[:-1] + b"," * MAX_VALUES
    tracemalloc.start()
    response = await client.post(path, content=content, headers={"Content-Type": "application/json"})
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (response.status_code, response.json()["error"]["code"]) == (413, "request_too_large")
    assert peak_bytes < 4 * len(content) + MIB


def test_what_stands_in_texts_does_not_count():
    check_num_values(body(prompt="," * 1_000_000))
    check_num_values(body(prompt='\\",' * 300_000))
    check_num_values(body(prompt=list(range(MAX_VALUES - 10))))
    with pytest.raises(HTTPException):
        check_num_values(body(prompt='"', other=[1] * (MAX_VALUES + 1)))


@pytest.mark.parametrize(
    ("fields", "place"),
    [
        ({"prompt": [*[1] * 250_000, "x"]}, ("body", "prompt")),
        ({"prompt": ["x"] * 250_000 + [1]}, ("body", "prompt")),
        ({"prompt": [[-1] * 250_000]}, ("body", "prompt")),
    ],
)
def test_a_long_list_has_one_problem_and_takes_little(fields: dict[str, object], place: tuple[str, ...]):
    content = body(**fields)
    tracemalloc.start()
    with pytest.raises(RequestValidationError) as refused:
        parse_body(content, CompletionBody)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(refused.value.errors()) == 1
    assert refused.value.errors()[0]["loc"][:2] == place
    assert peak_bytes < 40 * MIB


def test_a_chat_has_so_many_messages_at_most():
    message = {"role": "user", "content": ""}
    assert len(parse_body(body(messages=[message] * MAX_MESSAGES), ChatBody).messages) == MAX_MESSAGES
    with pytest.raises(RequestValidationError) as refused:
        parse_body(body(messages=[message] * (MAX_MESSAGES + 1)), ChatBody)
    assert refused.value.errors()[0]["loc"] == ("body", "messages")


@pytest.mark.parametrize(
    "content", [b"", b"{", b"\xff", b"[" * 100_000, b'{"context": ' + b"1" * 100_000 + b"}", b'"\\'], ids=len
)
def test_what_is_no_json_is_told_so(content: bytes):
    with pytest.raises(RequestValidationError) as refused:
        parse_body(content, LoadBody)
    assert refused.value.errors()[0]["type"] == "json_invalid"


async def test_long_texts_have_a_thread_that_short_ones_do_not_wait_for():
    work, go = TextWork(), threading.Event()
    long = work.run(LONG_TEXT_CHARS + 1, go.wait)
    waiting = work.run(LONG_TEXT_CHARS + 1, threading.current_thread)
    assert (await work.run(10, threading.current_thread)).name.startswith("text")
    go.set()
    assert await long
    assert (await waiting).name.startswith("long-text")


@pytest.mark.parametrize(
    ("path", "fields", "param"),
    [
        ("/v1/completions", {"prompt": "a" * 1_000_000}, "prompt"),
        ("/v1/completions", {"prompt": ["a", "b" * 100]}, "prompt"),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "a" * 1_000_000}]}, "messages"),
    ],
)
async def test_over_http_it_is_the_error_that_clients_know(
    client: httpx2.AsyncClient, path: str, fields: dict[str, object], param: str
):
    response = await client.post(path, json={"model": MODEL, **fields})
    error = response.json()["error"]
    assert (response.status_code, error["code"], error["param"]) == (400, "context_length_exceeded", param)


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions"])
async def test_thousands_of_parameters_are_not_compared_with_those_that_there_are(
    client: httpx2.AsyncClient, path: str
):
    fields = {"prompt": "a", "messages": [{"role": "user", "content": "a"}]}
    extra = {f"p{number}": 1 for number in range(10_000)}
    response = await client.post(path, json={"model": MODEL, **fields, **extra})
    assert response.status_code == 400
    assert "unknown parameters are more than" in response.json()["error"]["message"]
    few = {f"p{number}": 1 for number in range(100)}
    assert (await client.post(path, json={"model": MODEL, **fields, **few})).status_code == 200
