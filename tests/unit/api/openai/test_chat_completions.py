from __future__ import annotations

import asyncio
import json

import httpx2
import openai
import pytest

from exo_lite.domain.errors import NodeLost, NotReady, QueueFull
from exo_lite.domain.keep_alive import FOR_EVER
from tests.unit.api.scripted_daemon import BOS, EOS, MODEL, ScriptedDaemon

PATH = "/v1/chat/completions"
ASK = {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}]}


def sse_data(text: str) -> list[str]:
    return [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: ")]


async def test_the_sdk_gets_a_whole_answer(sdk: openai.AsyncOpenAI) -> None:
    completion = await sdk.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "Hi"}], seed=-1)
    [choice] = completion.choices
    assert choice.message.role == "assistant"
    assert choice.message.content == "Hello"
    assert choice.finish_reason == "stop"
    assert completion.usage is not None
    prompt = "<user>Hi<assistant>"
    assert (completion.usage.prompt_tokens, completion.usage.completion_tokens) == (len(prompt), 6)
    assert completion.usage.total_tokens == len(prompt) + 6
    assert completion.system_fingerprint == f"fp_{MODEL}"


async def test_the_sdk_streams(sdk: openai.AsyncOpenAI) -> None:
    stream = await sdk.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": "Hi"}],
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = [chunk async for chunk in stream]
    assert len({chunk.id for chunk in chunks}) == 1
    assert chunks[0].choices[0].delta.role == "assistant"
    answers = [chunk.choices[0] for chunk in chunks if chunk.choices]
    assert "".join(choice.delta.content or "" for choice in answers) == "Hello"
    assert [choice.finish_reason for choice in answers] == [None] * 6 + ["stop"]
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 6
    assert all(chunk.usage is None for chunk in chunks[:-1])


async def test_a_stream_ends_with_done_and_has_no_usage_unasked(client: httpx2.AsyncClient) -> None:
    response = await client.post(PATH, json={**ASK, "stream": True})
    assert response.headers["content-type"].startswith("text/event-stream")
    *chunks, done = sse_data(response.text)
    assert done == "[DONE]"
    assert all("usage" not in json.loads(chunk) for chunk in chunks)


async def test_the_prompt_is_rendered_without_a_second_bos(client: httpx2.AsyncClient, daemon: ScriptedDaemon) -> None:
    messages = [
        {"role": "developer", "content": [{"type": "text", "text": "Be"}, {"type": "text", "text": "brief"}]},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": None},
        {"role": "user", "content": "And?"},
    ]
    response = await client.post(PATH, json={"model": MODEL, "messages": messages})
    assert response.status_code == 200
    prompt = "<system>Be\nbrief<user>Hi<assistant><user>And?<assistant>"
    assert "".join(map(chr, daemon.asked[0].token_ids)) == prompt
    assert BOS not in daemon.asked[0].token_ids


async def test_defaults_are_openais_and_the_rest_of_the_context(
    client: httpx2.AsyncClient, daemon: ScriptedDaemon
) -> None:
    await client.post(PATH, json={**ASK, "user": "me", "metadata": {}, "temperature": None, "n": 1, "top_k": -1})
    [asked] = daemon.asked
    assert asked.max_tokens == 64 - len(asked.token_ids)
    assert (asked.sampling.temperature, asked.sampling.top_p, asked.sampling.top_k) == (1.0, 1.0, 0)
    assert asked.stop_token_ids == {EOS}


async def test_each_call_without_a_seed_draws_its_own(client: httpx2.AsyncClient, daemon: ScriptedDaemon) -> None:
    for _ in range(2):
        await client.post(PATH, json=ASK)
    assert daemon.asked[0].sampling.seed != daemon.asked[1].sampling.seed


@pytest.mark.parametrize(("seed", "expected"), [(5, 5), (-1, 2**64 - 1), (2**64 + 3, 3)])
async def test_seeds_become_64_bits(
    client: httpx2.AsyncClient, daemon: ScriptedDaemon, seed: int, expected: int
) -> None:
    await client.post(PATH, json={**ASK, "seed": seed})
    assert daemon.asked[0].sampling.seed == expected


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
async def test_both_names_limit_the_answer(client: httpx2.AsyncClient, name: str) -> None:
    answer = (await client.post(PATH, json={**ASK, name: 3})).json()
    assert answer["choices"][0]["message"]["content"] == "Hel"
    assert answer["choices"][0]["finish_reason"] == "length"


async def test_more_than_the_context_leaves_is_capped(client: httpx2.AsyncClient, daemon: ScriptedDaemon) -> None:
    assert (await client.post(PATH, json={**ASK, "max_tokens": 10_000})).status_code == 200
    assert daemon.asked[0].max_tokens == 64 - len(daemon.asked[0].token_ids)


async def test_a_prompt_that_fills_the_context_is_refused_before_any_hop(
    client: httpx2.AsyncClient, daemon: ScriptedDaemon
) -> None:
    response = await client.post(PATH, json={"model": MODEL, "messages": [{"role": "user", "content": "x" * 100}]})
    error = response.json()["error"]
    assert response.status_code == 400
    assert error["code"] == "context_length_exceeded"
    assert error["param"] == "messages"
    assert error["message"].startswith(
        "This model's maximum context length is 64 tokens. However, you requested 118 tokens "
        "(117 in the messages, 1 in the completion), which exceeds the context window"
    )
    assert "prompt is too long" in error["message"]  # the words that langchain-openai 1.7 looks for
    assert daemon.asked == []


@pytest.mark.parametrize("stop", ["lo", ["zz", "lo"]])
async def test_a_stop_string_ends_the_answer_and_the_generation(
    client: httpx2.AsyncClient, daemon: ScriptedDaemon, stop: object
) -> None:
    daemon.answer = "Hello, and much more"
    answer = (await client.post(PATH, json={**ASK, "stop": stop, "return_token_ids": True})).json()
    assert answer["choices"][0]["message"]["content"] == "Hel"
    assert answer["choices"][0]["finish_reason"] == "stop"
    assert answer["choices"][0]["token_ids"] == [ord(letter) for letter in "Hello"]
    assert daemon.num_open == 0


async def test_as_many_stop_strings_as_editors_send(client: httpx2.AsyncClient) -> None:
    stops = [*(f"</{number}>" for number in range(63)), "lo"]
    answer = (await client.post(PATH, json={**ASK, "stop": stops})).json()
    assert answer["choices"][0]["message"]["content"] == "Hel"


async def test_several_answers_of_one_prompt(sdk: openai.AsyncOpenAI, daemon: ScriptedDaemon) -> None:
    completion = await sdk.chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": "Hi"}], n=3, seed=2**64 - 1
    )
    assert [(one.index, one.message.content) for one in completion.choices] == [
        (0, "Hello"),
        (1, "Hello"),
        (2, "Hello"),
    ]
    assert [asked.sampling.seed for asked in daemon.asked] == [2**64 - 1, 0, 1]
    assert completion.usage is not None
    assert (completion.usage.prompt_tokens, completion.usage.completion_tokens) == (len("<user>Hi<assistant>"), 18)


async def test_further_answers_wait_for_the_first_token_so_that_the_prompt_is_computed_once(
    client: httpx2.AsyncClient, daemon: ScriptedDaemon
) -> None:
    daemon.pause = asyncio.Event()
    call = asyncio.create_task(client.post(PATH, json={**ASK, "n": 3}))
    await asyncio.wait_for(daemon.started.get(), 5)
    for _ in range(10):
        await asyncio.sleep(0)
    assert daemon.num_open == 1
    daemon.pause.set()
    assert len((await call).json()["choices"]) == 3


async def test_streamed_answers_of_one_prompt_are_told_apart_by_their_index(sdk: openai.AsyncOpenAI) -> None:
    stream = await sdk.chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": "Hi"}], n=2, stream=True
    )
    texts, roles, reasons = {0: "", 1: ""}, {0: 0, 1: 0}, {}
    async for chunk in stream:
        [choice] = chunk.choices
        texts[choice.index] += choice.delta.content or ""
        roles[choice.index] += choice.delta.role == "assistant"
        reasons[choice.index] = choice.finish_reason
    assert (texts, roles, reasons) == ({0: "Hello", 1: "Hello"}, {0: 1, 1: 1}, {0: "stop", 1: "stop"})


async def test_a_top_p_of_zero_is_taken(client: httpx2.AsyncClient, daemon: ScriptedDaemon) -> None:
    assert (await client.post(PATH, json={**ASK, "top_p": 0})).status_code == 200
    assert daemon.asked[0].sampling.top_p == 0.0


async def test_half_a_stop_string_is_not_lost_at_the_end(client: httpx2.AsyncClient) -> None:
    answer = (await client.post(PATH, json={**ASK, "stop": "lower"})).json()
    assert answer["choices"][0]["message"]["content"] == "Hello"


@pytest.mark.parametrize(
    ("keep_alive", "seconds"), [(None, None), (0, 0.0), (90, 90.0), ("1h", 3600.0), (-1, FOR_EVER)]
)
async def test_how_long_the_model_is_kept(
    client: httpx2.AsyncClient, daemon: ScriptedDaemon, keep_alive: object, seconds: float | None
) -> None:
    await client.post(PATH, json={**ASK, "keep_alive": keep_alive})
    assert (daemon.keep_alives_s, daemon.num_held) == ([seconds], 0)


async def test_ignore_eos_goes_on_to_the_limit(client: httpx2.AsyncClient, daemon: ScriptedDaemon) -> None:
    await client.post(PATH, json={**ASK, "ignore_eos": True, "max_tokens": 3})
    assert daemon.asked[0].stop_token_ids == frozenset()


async def test_streamed_token_ids_add_up(client: httpx2.AsyncClient) -> None:
    response = await client.post(PATH, json={**ASK, "stream": True, "return_token_ids": True, "stop": "lower"})
    choices = [json.loads(data)["choices"][0] for data in sse_data(response.text)[:-1]]
    token_ids = [token_id for choice in choices for token_id in choice.get("token_ids", [])]
    assert token_ids == [*map(ord, "Hello"), EOS]
    assert "".join(choice["delta"].get("content", "") for choice in choices) == "Hello"


@pytest.mark.parametrize(
    ("extra", "param"),
    [
        ({"n": 0}, "n"),
        ({"n": 17}, "n"),
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"logprobs": 3}, "logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": -1}, "top_logprobs"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"logprobs": False, "top_logprobs": 2}, "top_logprobs"),
        ({"logit_bias": {"5": 101}}, "logit_bias"),
        ({"logit_bias": {"-5": 1}}, "logit_bias"),
        ({"logit_bias": {"five": 1}}, "logit_bias"),
        ({"logit_bias": {"5": 1, "05": 2}}, "logit_bias"),
        ({"logit_bias": {"\u0665": 1}}, "logit_bias"),
        ({"logit_bias": {str(token_id): 1 for token_id in range(1025)}}, "logit_bias"),
        ({"logit_bias": [5]}, "logit_bias"),
        ({"presence_penalty": 2.5}, "presence_penalty"),
        ({"frequency_penalty": -2.5}, "frequency_penalty"),
        ({"repetition_penalty": 0}, "repetition_penalty"),
        ({"min_p": 1.5}, "min_p"),
        ({"stop": ["a"] * 65}, "stop"),
        ({"stop": ["a" * 1025]}, "stop"),
        ({"temperature": 3}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"top_p": -0.1}, "top_p"),
        ({"top_p": 1.1}, "top_p"),
        ({"top_k": -2}, "top_k"),
        ({"top_k": 2**32}, "top_k"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"keep_alive": "soon"}, "keep_alive"),
        ({"keep_alive": True}, "keep_alive"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "king", "content": "x"}]}, "messages.0.role"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages.0.content"),
        ({"messages": [{"role": "user"}]}, "messages.0.content"),
        ({"messages": [{"role": "user", "content": None}]}, "messages.0.content"),
        ({"messages": [{"role": "system", "content": []}]}, "messages.0.content"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages.0.content.0.text"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
            "messages.0.content.0",
        ),
        (
            {"messages": [{"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]}]},
            "messages.0.tool_calls",
        ),
    ],
)
async def test_what_cannot_be_done_is_refused_by_name(
    client: httpx2.AsyncClient, daemon: ScriptedDaemon, extra: dict[str, object], param: str
) -> None:
    response = await client.post(PATH, json={**ASK, **extra})
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param
    assert response.json()["error"]["code"] == "invalid_request"
    assert response.headers["x-should-retry"] == "false"
    assert daemon.asked == []


async def test_an_unknown_model_is_not_found_by_the_sdk(sdk: openai.AsyncOpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        await sdk.chat.completions.create(model="nobody", messages=[{"role": "user", "content": "Hi"}])
    assert caught.value.code == "model_not_found"


@pytest.mark.parametrize(
    ("error", "status"), [(NodeLost("node-b is gone"), 503), (QueueFull("full"), 429), (NotReady("loading"), 503)]
)
async def test_a_failure_before_the_first_token_is_a_plain_error(
    client: httpx2.AsyncClient, daemon: ScriptedDaemon, error: NodeLost | QueueFull | NotReady, status: int
) -> None:
    daemon.error = error
    response = await client.post(PATH, json={**ASK, "stream": True})
    assert response.status_code == status
    assert int(response.headers["retry-after"]) >= 1
    assert "x-should-retry" not in response.headers
    assert response.json()["error"]["code"] == error.code


async def test_a_failure_in_mid_stream_is_an_error_event_without_done(
    client: httpx2.AsyncClient, daemon: ScriptedDaemon
) -> None:
    daemon.error, daemon.error_after = NodeLost("node-b is gone"), 2
    response = await client.post(PATH, json={**ASK, "stream": True})
    assert response.status_code == 200
    events = sse_data(response.text)
    assert json.loads(events[-1])["error"]["code"] == "node_lost"
    assert "[DONE]" not in events
    assert daemon.num_open == 0


async def test_the_sdk_raises_on_an_error_in_mid_stream(sdk: openai.AsyncOpenAI, daemon: ScriptedDaemon) -> None:
    daemon.error, daemon.error_after = NodeLost("node-b is gone"), 2
    stream = await sdk.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "Hi"}], stream=True)
    with pytest.raises(openai.APIError, match="node-b is gone"):
        async for _ in stream:
            pass


async def test_an_answer_that_breaks_off_is_an_error(client: httpx2.AsyncClient, daemon: ScriptedDaemon) -> None:
    response = await client.post(PATH, json={**ASK, "ignore_eos": True, "max_tokens": 3})
    assert response.json()["choices"][0]["finish_reason"] == "length"
    daemon.answer = ""
    response = await client.post(PATH, json={**ASK, "max_tokens": 5})
    assert response.json()["choices"][0]["message"]["content"] == ""
