"""Answers that go on in another pipeline after k tokens are the same, bit for bit, as those that were not cut."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest

from exo_lite.domain.errors import InvalidRequest
from exo_lite.domain.ids import Epoch, ModelId, RequestId
from exo_lite.domain.model_spec import Quantization
from exo_lite.domain.request import AnswerRequest, GenerateRequest, Sampling, Token
from exo_lite.pipeline.scheduler import Features, Scheduler
from tests.unit.pipeline.local_pipeline import SPEC, LocalPipeline, open_pipeline, write_checkpoint

NUM_TOKENS = 80
PROMPT = tuple(random.Random(7).choices(range(SPEC.vocab_size), k=70))
SAMPLINGS = {
    "greedy": Sampling(temperature=0.0, logprobs=3),
    "sampled": Sampling(temperature=0.9, seed=4, logprobs=3),
    "penalized": Sampling(
        temperature=0.8, seed=5, logprobs=3, repetition_penalty=1.2, frequency_penalty=0.3, presence_penalty=0.2
    ),
    "late end": Sampling(temperature=0.7, seed=6, logprobs=3, min_tokens=40, late_token_ids=(1, 2, 3, 5, 8, 13, 21)),
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("resumed")
    write_checkpoint(folder)
    return folder


def request(sampling: Sampling, *, attempt: int = 0, answer_token_ids: tuple[int, ...] = ()) -> GenerateRequest:
    asked = AnswerRequest(PROMPT, NUM_TOKENS, sampling)
    return GenerateRequest(RequestId("r"), ModelId("m"), Epoch(1), attempt, asked, answer_token_ids)


def pipeline(checkpoint: Path, quant: Quantization = "int8") -> LocalPipeline:
    """A fresh one: nothing of the earlier attempt is in its cache."""
    return open_pipeline(checkpoint, quant, Features())


def bare(tokens: list[Token]) -> list[Token]:
    return [replace(token, num_cached_tokens=0) for token in tokens]


@pytest.mark.parametrize("sampling", SAMPLINGS.values(), ids=SAMPLINGS)
@pytest.mark.parametrize("num_before", [1, 2, 57, 58, 59, NUM_TOKENS - 1])  # 58: prompt and answer fill two blocks
def test_an_answer_goes_on_after_any_number_of_tokens(checkpoint: Path, sampling: Sampling, num_before: int):
    [whole] = pipeline(checkpoint).answer(request(sampling))
    before = tuple(token.token_id for token in whole[:num_before])
    [rest] = pipeline(checkpoint).answer(request(sampling, attempt=1, answer_token_ids=before))
    assert [token.index for token in rest] == list(range(num_before, NUM_TOKENS))
    assert bare(rest) == bare(whole[num_before:])


@pytest.mark.parametrize("quant", ["int4", "w8a8"])
def test_an_answer_goes_on_with_other_integers_too(checkpoint: Path, quant: Quantization):
    [whole] = pipeline(checkpoint, quant).answer(request(SAMPLINGS["penalized"]))
    before = tuple(token.token_id for token in whole[:30])
    resumed = request(SAMPLINGS["penalized"], attempt=1, answer_token_ids=before)
    assert bare(pipeline(checkpoint, quant).answer(resumed)[0]) == bare(whole[30:])


def test_what_earlier_attempts_left_in_the_cache_is_found_again(checkpoint: Path):
    again, sampling = pipeline(checkpoint), SAMPLINGS["sampled"]
    [whole] = again.answer(request(sampling))
    before = tuple(token.token_id for token in whole[:60])
    [rest] = again.answer(request(sampling, attempt=1, answer_token_ids=before))
    assert bare(rest) == bare(whole[60:])
    assert again.scheduler.counts.num_cached_tokens == 128  # two blocks of 130 tokens of prompt and answer
    assert again.scheduler.num_free_blocks == again.scheduler.num_blocks


def test_a_prompt_is_scored_once_however_many_attempts_an_answer_takes(checkpoint: Path):
    sampling = Sampling(temperature=0.0, logprobs=2, prompt_logprobs=True)
    [whole] = pipeline(checkpoint).answer(request(sampling))
    assert len(whole[0].prompt_logprobs) == len(PROMPT) - 1
    [rest] = pipeline(checkpoint).answer(request(sampling, attempt=1, answer_token_ids=(whole[0].token_id,)))
    assert bare(rest) == bare(whole[1:])


def test_no_more_is_reserved_for_an_answer_that_goes_on() -> None:
    begun, resumed = request(Sampling()), request(Sampling(), attempt=1, answer_token_ids=(1, 2, 3))
    assert begun.num_tokens == resumed.num_tokens == len(PROMPT) + NUM_TOKENS


@pytest.mark.parametrize(
    ("answer_token_ids", "expected"), [((1,) * NUM_TOKENS, "have been drawn already"), ((97,), "token id 97")]
)
def test_an_answer_that_is_complete_or_impossible_does_not_go_on(answer_token_ids: tuple[int, ...], expected: str):
    subject = Scheduler(epoch=Epoch(1), num_stages=1, num_sequences=1, context_length=256, vocab_size=SPEC.vocab_size)
    with pytest.raises(InvalidRequest, match=expected):
        subject.submit(request(Sampling(), attempt=1, answer_token_ids=answer_token_ids))
