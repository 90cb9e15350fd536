"""The numbers of real clusters: transformers' tokens from one, two and three nodes, and answers that seeds decide."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from exo_lite.store.model_store import ModelStore
from tests.daemons import Daemons, Node

MODEL = "smollm2-135m"
LONG = [pytest.mark.long, pytest.mark.timeout(600)]
NUM_PROMPTS_TOKENS = ((10, 24), pytest.param(20, 64, marks=LONG))
NUM_PROMPTS_TOKENS_BFLOAT16 = ((10, 10), pytest.param(20, 32, marks=LONG))
MIN_AGREEING_BFLOAT16 = 0.9
"""The share of answers that agree."""
NUM_AT_ONCE = 8
NUM_CORES = 2
LOAD = {"context": 256, "slots": NUM_AT_ONCE}
PROMPTS = (
    "Why is the sky blue?",
    "Write a limerick about a cat who learns to sail.",
    "Explain to a child how a bicycle stays upright.",
    "What is 17 times 23? Show your steps.",
    "List five uses for an old newspaper.",
    "Translate into French: The library opens at nine.",
    "Write a Python function that reverses a list.",
    "Who was Marie Curie?",
    "Describe the taste of a lemon to someone who has never had one.",
    "What should I pack for a week in the mountains?",
    "Summarize the story of Romeo and Juliet in two sentences.",
    "How does a refrigerator keep food cold?",
    "Give me three arguments for learning a second language.",
    "What is the difference between weather and climate?",
    "Invent a name for a bakery and a slogan for it.",
    "How do I politely decline an invitation?",
    "Tell me about the history of paper.",
    "Which planets have rings?",
    "Write the first lines of a detective story set in Lisbon.",
    "Complete the series and explain it: 1, 1, 2, 3, 5, 8",
)


@dataclass
class Reference:
    """transformers on the imported folder: one prompt at a time, no padding."""

    model_dir: Path
    computed: dict[tuple[torch.dtype, str], list[list[int]]] = field(default_factory=dict)

    def likeliest(self, dtype: torch.dtype, answers: Sequence[Sequence[int]]) -> list[list[int]]:
        """The likeliest token at each place of an answer to each of the first PROMPTS, after the tokens before.

        An answer that equals its line is what greedy decoding gives, which would take a forward pass for each token.
        Answers that were asked about before are not computed again.
        """
        key = (dtype, str(answers))
        if key not in self.computed:
            self.computed[key] = self._of_each_prompt(dtype, _likeliest, answers)
        return self.computed[key]

    def greedy(self, dtype: torch.dtype, num_prompts: int, num_tokens: int) -> list[list[int]]:
        """The likeliest tokens after PROMPTS, each computed alone: in a type where that makes a difference."""
        return self._of_each_prompt(dtype, _continue, [num_tokens] * num_prompts)

    def _of_each_prompt(
        self, dtype: torch.dtype, compute: Callable[..., list[int]], given: Sequence[object]
    ) -> list[list[int]]:
        model = AutoModelForCausalLM.from_pretrained(self.model_dir, dtype=dtype).eval()
        with ThreadPoolExecutor(NUM_CORES) as pool:  # a core for each prompt beats all cores for one
            return list(pool.map(partial(compute, model), self.prompts[: len(given)], given))

    @cached_property
    def prompts(self) -> list[list[int]]:
        """PROMPTS through transformers' own tokenizer and chat template."""
        tokenizer: Any = AutoTokenizer.from_pretrained(self.model_dir)
        chats = [[{"role": "user", "content": prompt}] for prompt in PROMPTS]
        return [tokenizer.apply_chat_template(chat, add_generation_prompt=True)["input_ids"] for chat in chats]


@torch.inference_mode()
def _continue(model: torch.nn.Module, prompt: Sequence[int], num_tokens: int) -> list[int]:
    token_ids: list[int] = []
    next_ids, past = torch.tensor([prompt]), None
    for _ in range(num_tokens):
        output = model(next_ids, past_key_values=past, use_cache=True)
        next_ids, past = output.logits[:, -1:].argmax(-1), output.past_key_values
        token_ids.append(int(next_ids))
    return token_ids


@torch.inference_mode()
def _likeliest(model: torch.nn.Module, prompt: Sequence[int], answer: Sequence[int]) -> list[int]:
    logits = model(torch.tensor([[*prompt, *answer[:-1]]])).logits[0, len(prompt) - 1 :]
    return [int(token_id) for token_id in logits.argmax(-1)]


@pytest.fixture(scope="module")
def reference(smollm2_store: ModelStore) -> Iterator[Reference]:
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield Reference(smollm2_store.get(MODEL).path)
    torch.set_num_threads(num_threads)


@pytest.fixture
def trio(daemons: Daemons) -> list[Node]:
    """Three nodes of one cluster, with or without the model."""
    return daemons.running or daemons.start_all(dict.fromkeys(("a", "b", "c"), "600MiB"))


def load(nodes: list[Node], dtype: str) -> None:
    """In this type, on all of the nodes."""
    model = nodes[0].model(MODEL)
    if model is not None and model["dtype"] != dtype:
        nodes[0].post(f"/api/v1/models/{MODEL}/unload")
    placed = nodes[0].load(MODEL, dtype=dtype, **LOAD)
    assert len(placed["shards"]) == len(nodes)
    for node in nodes:
        node.wait_ready(MODEL)


def answer(node: Node, prompt: str, num_tokens: int, **options: object) -> tuple[int, list[int]]:
    """The number of prompt tokens, and the tokens after them, whatever ends."""
    options = {"max_tokens": num_tokens, "ignore_eos": True, "return_token_ids": True, **options}
    document = node.chat(MODEL, prompt, **options)
    return document["usage"]["prompt_tokens"], document["choices"][0]["token_ids"]


def answer_all(
    nodes: list[Node], num_prompts: int, num_tokens: int, *, num_at_once: int = NUM_AT_ONCE
) -> list[tuple[int, list[int]]]:
    """Answer the first PROMPTS, several at once; each node is asked in turn."""
    with ThreadPoolExecutor(num_at_once) as pool:
        entries = [nodes[index % len(nodes)] for index in range(num_prompts)]
        return list(pool.map(lambda node, prompt: answer(node, prompt, num_tokens), entries, PROMPTS[:num_prompts]))


def assert_float32_is_exact(nodes: list[Node], reference: Reference, num_prompts: int, num_tokens: int) -> None:
    load(nodes, "float32")
    answers = answer_all(nodes, num_prompts, num_tokens)
    assert [num_prompt for num_prompt, _ in answers] == [len(prompt) for prompt in reference.prompts[:num_prompts]]
    token_ids = [token_ids for _, token_ids in answers]
    assert token_ids == reference.likeliest(torch.float32, token_ids)
    assert {len(one) for one in token_ids} == {num_tokens}


@pytest.mark.parametrize(("num_prompts", "num_tokens"), NUM_PROMPTS_TOKENS)
def test_one_node_answers_as_transformers_does(
    own_daemons: Daemons, reference: Reference, num_prompts: int, num_tokens: int
) -> None:
    alone = own_daemons.start("alone", memory="800MiB", threads=2)
    assert_float32_is_exact([alone], reference, num_prompts, num_tokens)


@pytest.mark.parametrize(("num_prompts", "num_tokens"), NUM_PROMPTS_TOKENS)
def test_two_nodes_answer_as_transformers_does(
    own_daemons: Daemons, reference: Reference, num_prompts: int, num_tokens: int
) -> None:
    pair = own_daemons.start_all({"one": "600MiB", "two": "500MiB"})
    assert_float32_is_exact(pair, reference, num_prompts, num_tokens)


@pytest.mark.parametrize(("num_prompts", "num_tokens"), NUM_PROMPTS_TOKENS)
def test_three_nodes_answer_as_transformers_does(
    trio: list[Node], reference: Reference, num_prompts: int, num_tokens: int
) -> None:
    assert_float32_is_exact(trio, reference, num_prompts, num_tokens)


@pytest.mark.parametrize(("num_prompts", "num_tokens"), NUM_PROMPTS_TOKENS_BFLOAT16)
def test_bfloat16_nearly_always_agrees(
    trio: list[Node], reference: Reference, num_prompts: int, num_tokens: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """Rounded to bfloat16, the likeliest two tokens are often equal, and the order of a sum decides between them.

    As many at once as there are stages, so that each step decodes one sequence, as transformers does.
    """
    load(trio, "bfloat16")
    answers = [token_ids for _, token_ids in answer_all(trio, num_prompts, num_tokens, num_at_once=len(trio))]
    expected = reference.greedy(torch.bfloat16, num_prompts, num_tokens)
    num_agreeing = sum(ours == theirs for ours, theirs in zip(answers, expected, strict=True))
    with capsys.disabled():
        sys.stdout.write(f"\nbfloat16: {num_agreeing} of {num_prompts} prompts agree with transformers\n")
    assert num_agreeing >= MIN_AGREEING_BFLOAT16 * num_prompts


def test_the_seed_decides_the_answer(trio: list[Node]) -> None:
    load(trio, "float32")
    first, again, other = (
        answer(node, PROMPTS[0], 24, temperature=1, seed=seed)[1] for node, seed in zip(trio, (7, 7, 8), strict=True)
    )
    assert first == again
    assert first != other


def test_an_answer_does_not_depend_on_those_beside_it(trio: list[Node]) -> None:
    """Sampled, and so at the mercy of every bit where a draw falls between two tokens, but floats leave room there."""
    load(trio, "float32")

    def sampled(seed: int) -> list[int]:
        return answer(trio[seed % 3], PROMPTS[seed], 24, temperature=1, seed=seed)[1]

    alone = sampled(0)
    with ThreadPoolExecutor(NUM_AT_ONCE) as pool:
        together = list(pool.map(sampled, range(NUM_AT_ONCE)))
    assert together[0] == alone
    assert len({tuple(token_ids) for token_ids in together}) == NUM_AT_ONCE
