"""Answers with and without what was computed before are the same, to the last bit of their log probabilities."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from exo_lite.domain.ids import Epoch, ModelId, RequestId
from exo_lite.domain.model_spec import Quantization
from exo_lite.domain.request import AnswerRequest, GenerateRequest, Sampling, Token
from exo_lite.pipeline.scheduler import Features
from tests.unit.pipeline.local_pipeline import SPEC, LocalPipeline, open_pipeline, write_checkpoint

_names = itertools.count()
SAMPLINGS = [
    Sampling(temperature=0.0, logprobs=5),
    Sampling(temperature=0.9, seed=4, logprobs=5, repetition_penalty=1.2, frequency_penalty=0.3),
]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exact")
    write_checkpoint(folder)
    return folder


def token_ids(count: int, seed: int) -> list[int]:
    return random.Random(seed).choices(range(SPEC.vocab_size), k=count)


def request(prompt: Sequence[int], sampling: Sampling, num_tokens: int = 12, tenant: str = "") -> GenerateRequest:
    name = RequestId(f"r{next(_names)}")
    asked = AnswerRequest(tuple(prompt), num_tokens, sampling, tenant=tenant)
    return GenerateRequest(name, ModelId("m"), Epoch(1), 0, asked)


def bare(answers: list[list[Token]]) -> list[list[Token]]:
    return [[replace(token, num_cached_tokens=0) for token in answer] for answer in answers]


def num_cached(answers: list[list[Token]]) -> list[int]:
    return [answer[0].num_cached_tokens for answer in answers]


def chat(pipeline: LocalPipeline, prompt: Sequence[int], sampling: Sampling) -> list[list[Token]]:
    """Three turns: each prompt is all that was said before and something new."""
    said, turns = list(prompt), []
    for turn in range(3):
        [answer] = pipeline.answer(request(said, sampling, num_tokens=70))
        turns.append(answer)
        said += [token.token_id for token in answer] + token_ids(9, turn)
    return turns


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=["greedy", "sampled"])
@pytest.mark.parametrize("quant", ["int8", "int4", "none"])
def test_a_chat_goes_on_as_if_each_turn_were_computed_from_its_start(
    checkpoint: Path, quant: Quantization, sampling: Sampling
):
    is_exact = quant != "none"
    prompt = token_ids(300, 1)
    reusing = chat(open_pipeline(checkpoint, quant, Features(is_exact=is_exact)), prompt, sampling)
    fresh = chat(open_pipeline(checkpoint, quant, Features(prefix_cache=False, is_exact=is_exact)), prompt, sampling)
    assert bare(reusing) == bare(fresh)
    # whole blocks of prompts and answers where numbers are exact, else whole chunks of prompts
    assert num_cached(reusing) == ([0, 320, 448] if is_exact else [0, 256, 256])
    assert num_cached(fresh) == [0, 0, 0]


@pytest.mark.parametrize("chunk_tokens", [128, 64, 32])
def test_floats_are_reused_to_the_bit_whatever_the_size_of_chunks(checkpoint: Path, chunk_tokens: int):
    prompt, turns = token_ids(300, 1), []
    for prefix_cache in (True, False):
        pipeline = open_pipeline(checkpoint, "none", Features(prefix_cache=prefix_cache, is_exact=False))
        pipeline.scheduler._chunk_size.tokens = chunk_tokens
        turns.append(chat(pipeline, prompt, SAMPLINGS[0]))
    assert bare(turns[0]) == bare(turns[1])
    assert num_cached(turns[0]) == [0, 256, 256 if chunk_tokens == 128 else 320]


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=["greedy", "sampled"])
def test_sequences_side_by_side_share_blocks_without_touching_each_other(checkpoint: Path, sampling: Sampling):
    pipeline = open_pipeline(checkpoint, "int8", Features())
    preamble = token_ids(200, 2)
    requests = [request(preamble + token_ids(20 * index, 3 + index), sampling) for index in range(4)]
    pipeline.answer(request(preamble, sampling, num_tokens=1))
    together = pipeline.answer(*requests)
    alone = [
        token
        for one in requests
        for token in open_pipeline(checkpoint, "int8", Features(prefix_cache=False)).answer(one)[0]
    ]
    assert [token for answer in bare(together) for token in answer] == alone
    assert num_cached(together) == [192] * 4
    assert pipeline.scheduler.num_free_blocks == pipeline.scheduler.num_blocks


def test_the_last_token_of_a_prompt_is_always_computed(checkpoint: Path):
    pipeline = open_pipeline(checkpoint, "int8", Features())
    prompt = token_ids(128, 5)
    first, again = (pipeline.answer(request(prompt, SAMPLINGS[0])) for _ in range(2))
    assert bare(first) == bare(again)
    assert num_cached(again) == [64]


def test_tenants_do_not_share(checkpoint: Path):
    pipeline = open_pipeline(checkpoint, "int8", Features())
    prompt = token_ids(130, 5)
    for tenant, expected in (("a", 0), ("b", 0), ("a", 128), ("b", 128)):
        assert num_cached(pipeline.answer(request(prompt, SAMPLINGS[0], tenant=tenant))) == [expected]


REPEATING = [
    *SAMPLINGS,
    Sampling(temperature=0.0, logit_bias=tuple((token_id, 60.0) for token_id in range(3)), logprobs=3),
    Sampling(temperature=0.4, seed=9, top_k=3, presence_penalty=-2.0, logprobs=2),
]
"""The last ones draw what they drew before, so that many guesses are right."""


@pytest.mark.parametrize("sampling", REPEATING)
@pytest.mark.parametrize("quant", ["int8", "int4"])
def test_guessing_changes_no_bit_of_an_answer(checkpoint: Path, quant: Quantization, sampling: Sampling):
    phrase = token_ids(11, 8)
    requests = [request(phrase * (2 + index), sampling, num_tokens=90) for index in range(2)]
    guessing = open_pipeline(checkpoint, quant, Features())
    plain = open_pipeline(checkpoint, quant, Features(speculation=False))
    assert bare(guessing.answer(*requests)) == bare(plain.answer(*requests))
    assert guessing.scheduler.counts.num_accepted_tokens > 0 or sampling in SAMPLINGS
    assert plain.scheduler.counts.num_proposed_tokens == 0


def test_right_guesses_save_steps_and_wrong_ones_stop(checkpoint: Path):
    """A model that says one thing for ever, and one whose words never come twice in the same order."""
    single_minded = Sampling(temperature=0.0, logit_bias=((5, 100.0),))
    pipeline = open_pipeline(checkpoint, "int8", Features())
    pipeline.answer(request(token_ids(20, 1), single_minded, num_tokens=100))
    counts = pipeline.scheduler.counts
    assert counts.num_accepted_tokens > 0.7 * counts.num_proposed_tokens > 40
    fickle = Sampling(temperature=2.0, seed=3, frequency_penalty=2.0)
    pipeline = open_pipeline(checkpoint, "int8", Features())
    pipeline.answer(request(list(range(20)) * 10, fickle, num_tokens=300))
    assert pipeline.scheduler.counts.num_proposed_tokens < 30
