"""Integers give the same bits on one, two and three real daemons: tokens, log probabilities, alone and side by side."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest

from tests.conftest import DEMO_MODEL
from tests.daemons import Daemons, Node

MEMORY = {"a": "900MiB", "b": "700MiB", "c": "600MiB"}
QUANTS = ("int8", "int4", "w8a8")
NUM_PROMPTS_TOKENS = ((2, 10), pytest.param(3, 24, marks=pytest.mark.long))
PROMPTS = (
    "Name three rivers of Africa and say where each of them ends, in one line each: the Nile, the Congo, the Niger.",
    "Count from one to ten: one, two, three, four,",
    "Tell me a story about a lighthouse.",
)
SAMPLINGS: tuple[dict[str, object], ...] = ({"temperature": 0}, {"temperature": 1, "top_p": 0.95, "seed": 7})

Answer = tuple[list[int], list[float]]


def answer(node: Node, num_tokens: int, question: tuple[str, dict[str, object]]) -> Answer:
    """The tokens of an answer and how likely each was."""
    prompt, sampling = question
    options: dict[str, object] = {"max_tokens": num_tokens, "ignore_eos": True, "logprobs": True, "top_logprobs": 3}
    choice = node.chat(DEMO_MODEL, prompt, return_token_ids=True, **options, **sampling)["choices"][0]
    likely = [one for entry in choice["logprobs"]["content"] for one in (entry, *entry["top_logprobs"])]
    return choice["token_ids"], [one["logprob"] for one in likely]


def answers(nodes: list[Node], quant: str, num_prompts: int, num_tokens: int) -> list[Answer]:
    """Ask the first prompts in every way, of a model that is placed on all of `nodes`.

    One after another where it is on one node, in batches where it is on several.
    """
    model = nodes[0].model(DEMO_MODEL)
    if model is None or model["quant"] != quant or len(model["shards"]) != len(nodes):
        model = nodes[0].load(DEMO_MODEL, quant=quant, context=256, slots=8)
    assert [shard["node"] for shard in model["shards"]] == [node.name for node in nodes]
    questions = [(prompt, sampling) for prompt in PROMPTS[:num_prompts] for sampling in SAMPLINGS]
    with ThreadPoolExecutor(len(nodes) * 2 - 1) as pool:
        return list(pool.map(partial(answer, nodes[-1], num_tokens), questions))


def unload(node: Node) -> None:
    assert node.post(f"/api/v1/models/{DEMO_MODEL}/unload").status_code == 200


@pytest.mark.timeout(900)
@pytest.mark.parametrize(("num_prompts", "num_tokens"), NUM_PROMPTS_TOKENS)
def test_integers_answer_alike_on_one_two_and_three_daemons(
    own_daemons: Daemons, num_prompts: int, num_tokens: int
) -> None:
    expected: dict[str, list[Answer]] = {}
    for name, memory in MEMORY.items():
        own_daemons.start(name, memory=memory)
        own_daemons.wait_joined()
        nodes = own_daemons.running
        for quant in QUANTS:
            given = answers(nodes, quant, num_prompts, num_tokens)
            assert given == expected.setdefault(quant, given), f"{quant} on {len(nodes)} nodes"
        unload(nodes[0])
    assert len({str(one) for one in expected.values()}) == len(QUANTS)  # they are three types, and the test tells them
