from __future__ import annotations

import asyncio
import json
from collections import defaultdict

import httpx2
import openai
import pytest

from exo_lite.domain.errors import NodeLost
from tests.unit.api.scripted_daemon import BOS, EOS, MODEL, ScriptedDaemon

PATH = "/v1/completions"


def choices_of(response: httpx2.Response) -> list[dict[str, object]]:
    choices: list[dict[str, object]] = response.json()["choices"]
    return choices


async def test_a_text_prompt_with_openais_default_length(sdk: openai.AsyncOpenAI, daemon: ScriptedDaemon) -> None:
    completion = await sdk.completions.create(model=MODEL, prompt="Say")
    assert completion.choices[0].text == "Hello"
    assert completion.object == "text_completion"
    assert daemon.asked[0].token_ids == (BOS, *map(ord, "Say"))
    assert daemon.asked[0].max_tokens == 16


async def test_several_prompts_give_choices_in_order(client: httpx2.AsyncClient, daemon: ScriptedDaemon) -> None:
    response = await client.post(PATH, json={"model": MODEL, "prompt": ["a", "bc"], "echo": True})
    assert [(choice["index"], choice["text"]) for choice in choices_of(response)] == [(0, "aHello"), (1, "bcHello")]
    usage = response.json()["usage"]
    assert usage.pop("prompt_tokens_details") == {"cached_tokens": 0}
    assert usage == {"prompt_tokens": 5, "completion_tokens": 12, "total_tokens": 17}
    assert len(daemon.asked) == 2


@pytest.mark.parametrize(
    ("prompt", "expected"), [([72, 105], [(72, 105)]), ([[72], [105, 33]], [(72,), (105, 33)]), ("Hi", [(1, 72, 105)])]
)
async def test_token_ids_are_taken_as_they_are(
    client: httpx2.AsyncClient, daemon: ScriptedDaemon, prompt: object, expected: list[tuple[int, ...]]
) -> None:
    response = await client.post(PATH, json={"model": MODEL, "prompt": prompt})
    assert response.status_code == 200
    assert [asked.token_ids for asked in daemon.asked] == expected


async def test_echo_of_token_ids_is_their_text_and_not_among_the_token_ids(client: httpx2.AsyncClient) -> None:
    body = {"model": MODEL, "prompt": [72, 105], "echo": True, "return_token_ids": True}
    [choice] = choices_of(await client.post(PATH, json=body))
    assert choice["text"] == "HiHello"
    assert choice["token_ids"] == [*map(ord, "Hello"), EOS]


async def test_a_stream_of_several_prompts(client: httpx2.AsyncClient) -> None:
    body = {
        "model": MODEL,
        "prompt": ["a", "b"],
        "echo": True,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    response = await client.post(PATH, json=body)
    lines = [line.removeprefix("data: ") for line in response.text.splitlines() if line]
    assert lines[-1] == "[DONE]"
    texts: dict[int, str] = defaultdict(str)
    for chunk in map(json.loads, lines[:-1]):
        for choice in chunk["choices"]:
            texts[choice["index"]] += choice["text"]
    assert texts == {0: "aHello", 1: "bHello"}
    assert json.loads(lines[-2])["usage"]["completion_tokens"] == 12


@pytest.mark.parametrize(
    ("extra", "param"),
    [
        ({"suffix": "tail"}, "suffix"),
        ({"best_of": 17}, "best_of"),
        ({"n": 3, "best_of": 2}, "best_of"),
        ({"best_of": 2, "stream": True}, "best_of"),
        ({"prompt": ["x"] * 65, "n": 2}, "n"),
        ({"logprobs": 21}, "logprobs"),
        ({"logprobs": -1}, "logprobs"),
        ({"logprobs": True}, "logprobs"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"min_p": -0.1}, "min_p"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [[]]}, "prompt"),
        ({"prompt": ["x"] * 129}, "prompt"),
        ({"prompt": "x" * 64}, "prompt"),
        ({"prompt": [-1]}, "prompt"),
        ({"stop": 5}, "stop"),
    ],
)
async def test_refusals_name_the_parameter(
    client: httpx2.AsyncClient, daemon: ScriptedDaemon, extra: dict[str, object], param: str
) -> None:
    response = await client.post(PATH, json={"model": MODEL, "prompt": "x", **extra})
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param
    assert daemon.asked == []


async def test_n_answers_to_each_prompt_stand_in_the_order_of_the_prompts(client: httpx2.AsyncClient) -> None:
    body = {"model": MODEL, "prompt": ["a", "bc"], "n": 2, "echo": True}
    response = await client.post(PATH, json=body)
    assert [choice["text"] for choice in choices_of(response)] == ["aHello", "aHello", "bcHello", "bcHello"]
    usage = response.json()["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == (5, 24)  # each prompt once, each answer
    streamed = await client.post(PATH, json={**body, "stream": True})
    texts: dict[int, str] = defaultdict(str)
    for line in streamed.text.splitlines():
        if line.startswith("data: {"):
            [choice] = json.loads(line.removeprefix("data: "))["choices"]
            texts[choice["index"]] += choice["text"]
    assert texts == {0: "aHello", 1: "aHello", 2: "bcHello", 3: "bcHello"}


async def test_the_best_of_several_answers(client: httpx2.AsyncClient, daemon: ScriptedDaemon) -> None:
    daemon.answers = ["ccccc", "a", "bbb"]  # tokens are the less likely the further on they stand
    body = {"model": MODEL, "prompt": "x", "best_of": 3, "n": 2, "max_tokens": 8}
    response = await client.post(PATH, json=body)
    assert [(one["index"], one["text"], one["logprobs"]) for one in choices_of(response)] == [
        (0, "a", None),
        (1, "bbb", None),
    ]
    assert response.json()["usage"]["completion_tokens"] == 12


async def test_what_further_answers_find_in_the_cache_is_not_counted(
    client: httpx2.AsyncClient, daemon: ScriptedDaemon
) -> None:
    daemon.num_cached_tokens = 2
    answer = (await client.post(PATH, json={"model": MODEL, "prompt": "abc", "n": 3})).json()
    assert answer["usage"]["prompt_tokens_details"] == {"cached_tokens": 2}
    assert (answer["timings"]["cache_n"], answer["timings"]["prompt_n"]) == (2, 2)


async def test_one_failing_prompt_ends_all(client: httpx2.AsyncClient, daemon: ScriptedDaemon) -> None:
    daemon.error, daemon.error_after = NodeLost("node-b is gone"), 3
    response = await client.post(PATH, json={"model": MODEL, "prompt": ["a", "b", "c"]})
    assert response.status_code == 503
    assert response.json()["error"]["message"] == "node-b is gone"
    assert daemon.num_open == 0


async def test_at_most_eight_prompts_run_at_once(client: httpx2.AsyncClient, daemon: ScriptedDaemon) -> None:
    daemon.pause = asyncio.Event()
    call = asyncio.create_task(client.post(PATH, json={"model": MODEL, "prompt": ["x"] * 12}))
    async with asyncio.timeout(5):
        for _ in range(8):
            await daemon.started.get()
    assert daemon.num_open == 8
    daemon.pause.set()
    assert len(choices_of(await call)) == 12
    assert len(daemon.asked) == 12


async def test_whose_a_request_is_travels_as_an_opaque_name_and_its_time_limit_with_it(
    locked_client: httpx2.AsyncClient, client: httpx2.AsyncClient, daemon: ScriptedDaemon
) -> None:
    body = {"model": MODEL, "prompt": "a", "timeout": 2.5}
    await locked_client.post(PATH, json=body, headers={"Authorization": "Bearer the-key"})
    await client.post(PATH, json={**body, "timeout": None})
    with_key, without = daemon.asked
    assert (with_key.timeout_s, without.timeout_s) == (2.5, None)
    assert len(with_key.tenant) == 16
    assert "the-key" not in with_key.tenant
    assert without.tenant == ""


@pytest.mark.parametrize("timeout", [0, -1, 1e9, "5"])
async def test_impossible_time_limits_are_refused(client: httpx2.AsyncClient, timeout: object) -> None:
    response = await client.post(PATH, json={"model": MODEL, "prompt": "a", "timeout": timeout})
    assert (response.status_code, response.json()["error"]["param"]) == (400, "timeout")
