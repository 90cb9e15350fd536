"""What other servers' parameters do here: they work, are refused by name, or leave the answer as it is."""

from __future__ import annotations

from pathlib import Path

import httpx2
import pytest

from exo_lite.api.openai.chat_messages import RESERVED_VARIABLES
from exo_lite.api.openai.parameters import IGNORED, IGNORED_HEADER, REFUSED, RENAMED
from exo_lite.api.openai.request_bodies import ChatBody, CompletionBody
from tests.unit.api.scripted_daemon import EOS, MODEL, ScriptedDaemon

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
ASK: dict[str, dict[str, object]] = {
    CHAT: {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}]},
    COMPLETIONS: {"model": MODEL, "prompt": "Hi"},
}
DOCUMENT = Path(__file__).parents[4] / "docs" / "http.md"
SOMETHING: dict[str, object] = {
    "prompt_logprobs": 1,
    "n_predict": 5,
    "top_logprobs": 1,
    "response_format": {"type": "x"},
    "tools": [{"type": "function"}],
}
"""Values that ask for something, where "yes" would not."""


NOT_YET = ("tools", "response_format")
"""Fields of a chat that are refused all the same."""


def names(path: str) -> list[str]:
    """Those of the tables that do nothing on the route."""
    fields = (ChatBody if path == CHAT else CompletionBody).model_fields
    return [name for name in (*REFUSED, *RENAMED) if name in NOT_YET or name not in fields]


@pytest.mark.parametrize("path", ASK)
async def test_what_would_change_the_answer_is_refused_by_name(
    client: httpx2.AsyncClient, daemon: ScriptedDaemon, path: str
) -> None:
    for name in names(path):
        response = await client.post(path, json={**ASK[path], name: SOMETHING.get(name, "yes")})
        error = response.json()["error"]
        assert (response.status_code, error["param"], error["code"]) == (400, name, "invalid_request")
        assert name in error["message"]
    assert daemon.asked == []


@pytest.mark.parametrize("path", ASK)
async def test_values_that_ask_for_nothing_are_taken(
    client: httpx2.AsyncClient, daemon: ScriptedDaemon, path: str
) -> None:
    harmless = {**REFUSED, **{name: values for name, (_, values) in RENAMED.items()}}
    for name in names(path):
        for value in (None, *harmless[name]):
            response = await client.post(path, json={**ASK[path], name: value})
            assert (response.status_code, name, value) == (200, name, value)
            assert IGNORED_HEADER not in response.headers


@pytest.mark.parametrize("path", ASK)
async def test_what_leaves_the_answer_as_it_is_is_ignored(client: httpx2.AsyncClient, path: str) -> None:
    response = await client.post(path, json={**ASK[path], **dict.fromkeys(IGNORED, "anything")})
    assert response.status_code == 200
    assert IGNORED_HEADER not in response.headers


def test_each_parameter_has_one_place_and_stands_in_the_documentation() -> None:
    assert not REFUSED.keys() & RENAMED.keys()
    assert not IGNORED & (REFUSED.keys() | RENAMED.keys())
    fields = ChatBody.model_fields.keys() | CompletionBody.model_fields.keys()
    assert not fields & IGNORED
    text = DOCUMENT.read_text(encoding="utf-8")
    assert [name for name in sorted({*fields, *REFUSED, *RENAMED, *IGNORED}) if f"`{name}`" not in text] == []


@pytest.mark.parametrize("is_streamed", [False, True])
@pytest.mark.parametrize("path", ASK)
async def test_what_nobody_has_heard_of_is_told_in_a_header(
    client: httpx2.AsyncClient, path: str, is_streamed: bool
) -> None:
    unknown = {"frobnicate": 1, "x_y": None, "a\r\nSet-Cookie: b": 1, "ü": 1, "stream": is_streamed}
    response = await client.post(path, json={**ASK[path], **unknown})
    assert (response.status_code, response.headers[IGNORED_HEADER]) == (200, "frobnicate, x_y")
    assert "set-cookie" not in response.headers
    many = await client.post(path, json={**ASK[path], **{f"frobnicate{number}": 1 for number in range(100)}})
    assert len(many.headers[IGNORED_HEADER].split(", ")) == 16


@pytest.mark.parametrize(("name", "meant"), [("temprature", "temperature"), ("max_token", "max_tokens")])
async def test_a_slip_of_the_pen_is_refused(
    client: httpx2.AsyncClient, daemon: ScriptedDaemon, name: str, meant: str
) -> None:
    response = await client.post(CHAT, json={**ASK[CHAT], name: 1})
    assert (response.status_code, response.json()["error"]["param"]) == (400, name)
    assert response.json()["error"]["message"].endswith(f"did you mean {meant}?")
    assert daemon.asked == []


PREFILLED = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Well, "}]
CONTINUED = "<user>Hi<assistant>Well, "
CLOSED, NEW_TURN = f"{CONTINUED}.", f"{CONTINUED}<assistant>"


@pytest.mark.parametrize(
    ("flags", "prompt"),
    [
        ({}, CONTINUED),
        ({"continue_final_message": True}, CONTINUED),
        ({"continue_final_message": True, "add_generation_prompt": False}, CONTINUED),
        ({"continue_final_message": False}, NEW_TURN),
        ({"add_generation_prompt": True}, NEW_TURN),
        ({"add_generation_prompt": False}, CLOSED),
    ],
)
async def test_a_last_message_of_the_assistant_is_continued_unless_told_otherwise(
    client: httpx2.AsyncClient, daemon: ScriptedDaemon, flags: dict[str, bool], prompt: str
) -> None:
    response = await client.post(CHAT, json={"model": MODEL, "messages": PREFILLED, **flags})
    assert "".join(map(chr, daemon.asked[0].token_ids)) == prompt
    assert response.json()["choices"][0]["message"]["content"] == "Hello"  # what is new, and only that


async def test_without_a_generation_prompt_the_prompt_ends_with_the_messages(
    client: httpx2.AsyncClient, daemon: ScriptedDaemon
) -> None:
    await client.post(CHAT, json={**ASK[CHAT], "add_generation_prompt": False})
    assert "".join(map(chr, daemon.asked[0].token_ids)) == "<user>Hi."


@pytest.mark.parametrize(
    ("given", "variables"),
    [
        ({"chat_template_kwargs": {"enable_thinking": False}}, "enable_thinking=False;"),
        ({"reasoning_effort": "low"}, "reasoning_effort=low;"),
        ({"reasoning_effort": "none"}, "reasoning_effort=none;enable_thinking=False;"),
        (
            {"reasoning_effort": "none", "chat_template_kwargs": {"enable_thinking": True}},
            "reasoning_effort=none;enable_thinking=True;",
        ),
    ],
)
async def test_variables_reach_the_template(
    client: httpx2.AsyncClient, daemon: ScriptedDaemon, given: dict[str, object], variables: str
) -> None:
    await client.post(CHAT, json={**ASK[CHAT], **given})
    assert "".join(map(chr, daemon.asked[0].token_ids)) == f"{variables}<user>Hi<assistant>"


async def test_variables_hide_none_of_the_templates_own(client: httpx2.AsyncClient) -> None:
    for name in RESERVED_VARIABLES:
        response = await client.post(CHAT, json={**ASK[CHAT], "chat_template_kwargs": {name: 1}})
        assert (response.status_code, response.json()["error"]["param"]) == (400, "chat_template_kwargs")


async def test_tokens_that_end_an_answer(client: httpx2.AsyncClient, daemon: ScriptedDaemon) -> None:
    answer = (await client.post(COMPLETIONS, json={**ASK[COMPLETIONS], "stop_token_ids": [ord("l"), 7]})).json()
    assert (answer["choices"][0]["text"], answer["choices"][0]["finish_reason"]) == ("He", "stop")
    assert daemon.asked[0].stop_token_ids == {EOS, ord("l"), 7}
    await client.post(COMPLETIONS, json={**ASK[COMPLETIONS], "stop_token_ids": [7], "ignore_eos": True})
    assert daemon.asked[1].stop_token_ids == {7}


async def test_an_answer_has_its_least_number_of_tokens(client: httpx2.AsyncClient, daemon: ScriptedDaemon) -> None:
    body = {**ASK[COMPLETIONS], "min_tokens": 3, "stop_token_ids": [7], "max_tokens": 5}
    await client.post(COMPLETIONS, json=body)
    [asked] = daemon.asked
    assert (asked.sampling.min_tokens, asked.sampling.late_token_ids) == (3, (EOS, 7))
    await client.post(COMPLETIONS, json=ASK[COMPLETIONS])
    assert daemon.asked[1].sampling.late_token_ids == ()


async def test_text_that_is_not_to_begin_with_the_first_token(
    client: httpx2.AsyncClient, daemon: ScriptedDaemon
) -> None:
    await client.post(COMPLETIONS, json={**ASK[COMPLETIONS], "add_special_tokens": False})
    assert daemon.asked[0].token_ids == (*map(ord, "Hi"),)


@pytest.mark.parametrize(
    ("extra", "param"),
    [
        ({"min_tokens": -1}, "min_tokens"),
        ({"min_tokens": 2**32}, "min_tokens"),
        ({"min_tokens": 6, "max_tokens": 5}, "min_tokens"),
        ({"stop_token_ids": [-1]}, "stop_token_ids.0"),
        ({"stop_token_ids": [2**31]}, "stop_token_ids.0"),
        ({"stop_token_ids": [1] * 65}, "stop_token_ids"),
        ({"continue_final_message": True}, "continue_final_message"),
        (
            {"messages": PREFILLED, "continue_final_message": True, "add_generation_prompt": True},
            "continue_final_message",
        ),
        ({"reasoning_effort": "immense"}, "reasoning_effort"),
        ({"chat_template_kwargs": [1]}, "chat_template_kwargs"),
        ({"chat_template_kwargs": {"x": [[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]}}, "chat_template_kwargs"),
        ({"skip_special_tokens": "no"}, "skip_special_tokens"),
    ],
)
async def test_impossible_values_are_refused_by_name(
    client: httpx2.AsyncClient, daemon: ScriptedDaemon, extra: dict[str, object], param: str
) -> None:
    response = await client.post(CHAT, json={**ASK[CHAT], **extra})
    assert (response.status_code, response.json()["error"]["param"]) == (400, param)
    assert daemon.asked == []
