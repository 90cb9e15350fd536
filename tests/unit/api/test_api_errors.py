from __future__ import annotations

import logging
from typing import NoReturn

import httpx2
import pytest

from exo_lite.api.failures import MAX_RETRY_AFTER_S, failure_of
from exo_lite.api.route_hints import PATHS
from exo_lite.domain.errors import (
    ContextLengthExceeded,
    DeadlineExceeded,
    ExoLiteError,
    InvalidModel,
    InvalidRequest,
    ModelDoesNotFit,
    ModelNotFound,
    NodeLost,
    NotReady,
    QueueFull,
    StaleEpoch,
    Unauthorized,
    UnsupportedModel,
)
from tests.unit.api.scripted_daemon import MODEL, ScriptedDaemon


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (InvalidRequest("x"), 400),
        (ContextLengthExceeded("x"), 400),
        (InvalidModel("x"), 400),
        (UnsupportedModel("x"), 400),
        (Unauthorized("x"), 401),
        (ModelNotFound("x"), 404),
        (QueueFull("x"), 429),
        (DeadlineExceeded("x"), 504),
        (NotReady("x"), 503),
        (NodeLost("x"), 503),
        (ModelDoesNotFit("x"), 507),
        (StaleEpoch("x"), 500),
        (ExoLiteError("x"), 500),
        (RuntimeError("the prompt"), 500),
    ],
)
def test_statuses(error: Exception, status: int) -> None:
    failure = failure_of(error)
    assert failure.status == status
    assert (failure.retry_after_s is not None) == (status in (429, 503))
    assert "the prompt" not in failure.message


def test_an_error_that_knows_when_to_come_again_says_so() -> None:
    busy = QueueFull("x")
    busy.retry_after_s = 3
    assert failure_of(busy).retry_after_s == 3
    assert failure_of(busy).message == "x"


def test_nobody_is_kept_waiting_for_longer_than_a_user_would_but_the_message_is_honest() -> None:
    busy = QueueFull("the line is full")
    busy.retry_after_s = 60
    failure = failure_of(busy)
    assert failure.retry_after_s == MAX_RETRY_AFTER_S == 5
    assert failure.message == "the line is full (try again in about 60 s)"


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [("GET", "/nowhere", 404, "not_found"), ("DELETE", "/v1/models", 405, "method_not_allowed")],
)
async def test_the_frameworks_own_errors_look_the_same(
    client: httpx2.AsyncClient, method: str, path: str, status: int, code: str
) -> None:
    response = await client.request(method, path)
    assert response.status_code == status
    assert response.json()["error"].keys() == {"message", "type", "param", "code"}
    assert response.json()["error"]["code"] == code


@pytest.mark.parametrize(
    ("path", "meant"),
    [
        ("/chat/completions", "/v1/chat/completions"),
        ("/completions", "/v1/completions"),
        ("/models", "/v1/models"),
        ("/models/tiny", "/v1/models/tiny"),
        ("/v1/v1/models", "/v1/models"),
        ("/openai/v1/chat/completions/", "/v1/chat/completions"),
        ("/v1/chat/completion", "/v1/chat/completions"),
        ("/v1", None),
        ("/v1/embeddings", None),
        ("/api/tags", None),
    ],
)
async def test_a_path_that_is_not_there_is_told_what_may_have_been_meant(
    client: httpx2.AsyncClient, path: str, meant: str | None
) -> None:
    response = await client.post(path, json={})
    assert response.status_code == 404
    message = response.json()["error"]["message"]
    assert path in message
    assert message.endswith(f"did you mean {meant}?" if meant else "/v1/chat/completions, /v1/completions, /v1/models.")


async def test_what_is_suggested_is_there(client: httpx2.AsyncClient) -> None:
    for path in PATHS:
        assert ((await client.patch(path)).status_code, path) == (405, path)


async def test_a_wrong_method_is_told_the_right_one(client: httpx2.AsyncClient) -> None:
    message = (await client.get("/v1/chat/completions")).json()["error"]["message"]
    assert message == "GET is not possible at '/v1/chat/completions': use POST."


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'"x"', b"\xff\xfe", b'{"model": "m"}', b"[" * 100_000])
async def test_broken_bodies_are_the_callers_fault(client: httpx2.AsyncClient, content: bytes) -> None:
    headers = {"Content-Type": "application/json"}
    response = await client.post("/v1/chat/completions", content=content, headers=headers)
    assert response.status_code == 400
    assert response.json()["error"]["code"] == "invalid_request"


async def test_a_refused_value_is_not_repeated(client: httpx2.AsyncClient) -> None:
    body = {"model": MODEL, "messages": [{"role": "user", "content": {"secret": "my prompt"}}]}
    response = await client.post("/v1/chat/completions", json=body)
    assert response.status_code == 400
    assert "my prompt" not in response.text


async def test_a_bug_is_a_500_whose_log_names_the_place_but_no_value(
    client: httpx2.AsyncClient, daemon: ScriptedDaemon, caplog: pytest.LogCaptureFixture
) -> None:
    prompt = "-".join(("my", "prompt"))

    def explode() -> NoReturn:
        raise KeyError(prompt)

    daemon.state = explode  # type: ignore[method-assign]  # the bug
    with caplog.at_level(logging.ERROR):
        response = await client.get("/api/v1/state")
    assert response.status_code == 500
    assert response.json()["error"]["code"] == "internal_error"
    assert response.headers["x-should-retry"] == "false"
    assert "KeyError" in caplog.text
    assert "explode" in caplog.text
    assert prompt not in caplog.text + response.text
