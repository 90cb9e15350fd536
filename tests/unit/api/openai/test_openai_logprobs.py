"""Log probabilities as OpenAI's own SDK reads them, plain and streamed, in both routes."""

from __future__ import annotations

import json
from typing import Any

import httpx2
import openai
import pytest
from openai.types.chat.chat_completion import ChoiceLogprobs

from exo_lite.api.openai.logprobs import chat_logprobs, completion_logprobs
from exo_lite.api.pieces import ScoredToken
from exo_lite.domain.request import Logprobs
from tests.unit.api.scripted_daemon import MODEL, LetterModel, ScriptedDaemon

CHAT = "/v1/chat/completions"
MESSAGES = [{"role": "user", "content": "Hi"}]


async def test_a_chats_tokens_come_with_their_likeliest_rivals(sdk: openai.AsyncOpenAI) -> None:
    completion = await sdk.chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": "Hi"}], logprobs=True, top_logprobs=3
    )
    logprobs = completion.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content is not None
    assert logprobs.refusal is None
    assert [one.token for one in logprobs.content] == list("Hello")  # and not what ended the answer
    assert [one.logprob for one in logprobs.content] == [-1.5, -2.5, -3.5, -4.5, -5.5]
    first = logprobs.content[0]
    assert first.bytes == [ord("H")]
    assert [(top.token, top.logprob, top.bytes) for top in first.top_logprobs] == [
        ("*", -0.25, [ord("*")]),
        ("H", -1.5, [ord("H")]),
        ("I", -9.0, [ord("I")]),
    ]


async def test_without_a_number_only_the_tokens_own(sdk: openai.AsyncOpenAI, daemon: ScriptedDaemon) -> None:
    completion = await sdk.chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": "Hi"}], logprobs=True
    )
    logprobs = completion.choices[0].logprobs
    assert logprobs is not None
    assert [one.top_logprobs for one in logprobs.content or []] == [[]] * 5
    assert daemon.asked[0].sampling.logprobs == 0


async def test_unasked_there_are_none(client: httpx2.AsyncClient, daemon: ScriptedDaemon) -> None:
    body = {"model": MODEL, "messages": MESSAGES, "logprobs": False, "top_logprobs": 0}
    response = await client.post(CHAT, json=body)
    assert response.json()["choices"][0]["logprobs"] is None
    assert daemon.asked[0].sampling.logprobs is None


async def test_a_streamed_chat_tells_of_each_token_with_its_text(sdk: openai.AsyncOpenAI) -> None:
    stream = await sdk.chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": "Hi"}], logprobs=True, top_logprobs=1, stream=True
    )
    told = []
    async for chunk in stream:
        choice = chunk.choices[0]
        tokens = [one.token for one in choice.logprobs.content or []] if choice.logprobs else []
        assert "".join(tokens) == (choice.delta.content or "")
        told.extend(tokens)
    assert told == list("Hello")


async def test_completions_tell_them_in_the_legacy_form(sdk: openai.AsyncOpenAI) -> None:
    completion = await sdk.completions.create(model=MODEL, prompt="Say", logprobs=1)
    logprobs = completion.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.tokens == list("Hello")
    assert logprobs.token_logprobs == [-1.5, -2.5, -3.5, -4.5, -5.5]
    assert logprobs.text_offset == [0, 1, 2, 3, 4]
    assert logprobs.top_logprobs is not None
    assert logprobs.top_logprobs[:2] == [{"H": -1.5, "*": -0.25}, {"e": -2.5, "*": -0.25}]


async def test_streamed_completions_go_on_counting(sdk: openai.AsyncOpenAI, daemon: ScriptedDaemon) -> None:
    daemon.answer = "né *!"
    stream = await sdk.completions.create(model=MODEL, prompt="Say", logprobs=0, stream=True)
    found = [chunk.choices[0].logprobs async for chunk in stream if chunk.choices[0].logprobs]
    assert [token for one in found for token in one.tokens or []] == ["n", "é", " ", "*", "!"]
    assert [offset for one in found for offset in one.text_offset or []] == [0, 1, 2, 3, 4]
    assert [top for one in found for top in one.top_logprobs or []][3] == {"*": -4.5}


@pytest.mark.parametrize("is_streamed", [False, True])
async def test_what_a_stop_string_cuts_off_is_not_told(
    sdk: openai.AsyncOpenAI, daemon: ScriptedDaemon, is_streamed: bool
) -> None:
    daemon.answer = "Hello, and much more"
    if is_streamed:
        stream = await sdk.completions.create(model=MODEL, prompt="Say", logprobs=2, stop="lo,", stream=True)
        chunks = [chunk.choices[0] async for chunk in stream]
    else:
        chunks = (await sdk.completions.create(model=MODEL, prompt="Say", logprobs=2, stop="lo,")).choices
    assert "".join(chunk.text for chunk in chunks) == "Hel"
    assert [token for one in chunks if one.logprobs for token in one.logprobs.tokens or []] == ["H", "e", "l"]


def test_parts_of_characters_have_names_of_their_own() -> None:
    class Bytes(LetterModel):
        def token_bytes(self, token_id: int) -> bytes:
            return bytes([token_id])

    scored = [ScoredToken(0xE3, Logprobs(-1.0, ((0xE4, -0.5), (0xE3, -1.0), (0x41, -2.0))), 0)]
    document = completion_logprobs(Bytes(), scored)
    assert document["tokens"] == [r"bytes:\xe3"]
    assert document["top_logprobs"] == [{r"bytes:\xe3": -1.0, r"bytes:\xe4": -0.5, "A": -2.0}]
    [one] = ChoiceLogprobs.model_validate(chat_logprobs(Bytes(), scored)).content or []
    assert (one.token, one.bytes) == ("\ufffd", [0xE3])


async def test_several_prompts_have_theirs_each(client: httpx2.AsyncClient) -> None:
    body = {"model": MODEL, "prompt": ["a", "b"], "logprobs": 0, "max_tokens": 2, "return_token_ids": True}
    for choice in (await client.post("/v1/completions", json=body)).json()["choices"]:
        assert choice["logprobs"]["tokens"] == ["H", "e"]
        assert choice["token_ids"] == [ord("H"), ord("e")]


async def test_the_sdks_penalties_reach_the_sampler(sdk: openai.AsyncOpenAI, daemon: ScriptedDaemon) -> None:
    await sdk.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": "Hi"}],
        presence_penalty=0.5,
        frequency_penalty=-1,
        logit_bias={"72": -100, "5": 2, "6": 0},
        extra_body={"min_p": 0.1, "repetition_penalty": 1.2},
    )
    sampling = daemon.asked[0].sampling
    assert (sampling.presence_penalty, sampling.frequency_penalty) == (0.5, -1.0)
    assert (sampling.min_p, sampling.repetition_penalty) == (0.1, 1.2)
    assert sampling.logit_bias == ((72, -100.0), (5, 2.0))


async def test_what_asks_for_nothing_is_nothing(client: httpx2.AsyncClient, daemon: ScriptedDaemon) -> None:
    nothing: dict[str, object] = {
        "presence_penalty": 0,
        "frequency_penalty": None,
        "repetition_penalty": 1,
        "min_p": 0,
        "logit_bias": {},
    }
    assert (await client.post(CHAT, json={"model": MODEL, "messages": MESSAGES, **nothing})).status_code == 200
    sampling = daemon.asked[0].sampling
    assert not sampling.changes_scores
    assert (sampling.min_p, sampling.logprobs) == (0.0, None)


def text_and_scores(choice: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    return choice["text"], choice["logprobs"]


async def test_an_echoed_prompt_is_scored_but_for_its_first_token(client: httpx2.AsyncClient) -> None:
    body = {"model": MODEL, "prompt": [72, 105], "echo": True, "logprobs": 1, "max_tokens": 1}
    [choice] = (await client.post("/v1/completions", json=body)).json()["choices"]
    text, scores = text_and_scores(choice)
    assert text == "HiH"
    assert scores["tokens"] == ["H", "i", "H"]
    assert scores["token_logprobs"] == [None, -0.5, -1.5]
    assert scores["top_logprobs"] == [None, {"i": -0.5}, {"H": -1.5, "*": -0.25}]
    assert scores["text_offset"] == [0, 1, 2]


async def test_of_an_echoed_prompt_alone_nothing_is_answered(
    client: httpx2.AsyncClient, daemon: ScriptedDaemon
) -> None:
    body = {"model": MODEL, "prompt": ["Hi", "H"], "echo": True, "logprobs": 2, "max_tokens": 0}
    answer = (await client.post("/v1/completions", json=body)).json()
    (text, scores), (other, _) = map(text_and_scores, answer["choices"])
    assert (text, other) == ("Hi", "H")
    assert scores["tokens"] == ["\x01", "H", "i"]
    assert scores["token_logprobs"] == [None, -0.5, -0.5]
    assert [choice["finish_reason"] for choice in answer["choices"]] == ["length", "length"]
    assert (answer["usage"]["prompt_tokens"], answer["usage"]["completion_tokens"]) == (5, 0)
    assert [asked.max_tokens for asked in daemon.asked] == [1, 1]


async def test_the_token_that_ends_an_answer_is_scored_too_where_the_prompt_is(
    client: httpx2.AsyncClient, daemon: ScriptedDaemon
) -> None:
    """Programs that reckon with a prompt's tokens leave out the last one, of the answer."""
    daemon.answer = ""
    body = {"model": MODEL, "prompt": [72, 105], "echo": True, "logprobs": 1, "max_tokens": 1}
    [choice] = (await client.post("/v1/completions", json=body)).json()["choices"]
    assert choice["text"] == "Hi"
    assert choice["logprobs"]["tokens"] == ["H", "i", "\x00"]


async def test_a_stream_has_the_prompts_scores_with_the_prompt(client: httpx2.AsyncClient) -> None:
    body = {"model": MODEL, "prompt": "Hi", "echo": True, "logprobs": 0, "max_tokens": 2, "stream": True}
    response = await client.post("/v1/completions", json=body)
    chunks = [json.loads(line[6:])["choices"][0] for line in response.text.splitlines() if line.startswith("data: {")]
    assert [chunk["text"] for chunk in chunks] == ["Hi", "H", "e"]
    assert [chunk["logprobs"]["tokens"] for chunk in chunks] == [["\x01", "H", "i"], ["H"], ["e"]]
    assert [chunk["logprobs"]["text_offset"] for chunk in chunks] == [[0, 1, 2], [2], [3]]


async def test_without_scores_no_prompt_is_scored(client: httpx2.AsyncClient, daemon: ScriptedDaemon) -> None:
    for extra in ({"echo": True}, {"logprobs": 1}):
        await client.post("/v1/completions", json={"model": MODEL, "prompt": "Hi", **extra})
    assert [asked.sampling.prompt_logprobs for asked in daemon.asked] == [False, False]
