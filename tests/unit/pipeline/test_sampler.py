"""The sampler of the last stage: whose sampling a sequence has, what is counted for it, what is told of its tokens."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import pytest
from numpy.typing import ArrayLike, NDArray

from exo_lite.domain.errors import MalformedStep
from exo_lite.domain.request import Sampling
from exo_lite.domain.step import Admission, SequenceChunk
from exo_lite.pipeline.sampler import Sampler
from tests.numpy_engine import NumpyLogits

GREEDY = Sampling(temperature=0.0)
SCORES = (0.0, 3.0, 2.9, 2.8)


def logits_of(*rows: ArrayLike) -> NumpyLogits:
    return NumpyLogits(np.array(rows, np.float32))


LOGITS = logits_of(SCORES)


def chunk(sequence_index: int, index: int) -> SequenceChunk:
    return SequenceChunk(sequence_index, index, 1, sample_index=index)


def drawn(sampler: Sampler, count: int, *, sequence_index: int = 0, start: int = 0) -> list[int]:
    """What a sequence draws from the same scores again and again."""
    return [sampler.draw(LOGITS, [chunk(sequence_index, start + index)])[0].token_id for index in range(count)]


def test_what_was_drawn_counts_from_then_on():
    sampler = Sampler(4)
    sampler.admit([Admission(0, Sampling(temperature=0.0, presence_penalty=0.15))])
    assert drawn(sampler, 5) == [1, 2, 1, 1, 1]  # once each, and only once
    sampler.admit([Admission(0, Sampling(temperature=0.0, frequency_penalty=0.15))])
    assert drawn(sampler, 6) == [1, 2, 1, 3, 2, 1]


def test_the_prompt_counts_for_repetition():
    sampler = Sampler(4)
    sampler.admit([Admission(0, Sampling(temperature=0.0, repetition_penalty=2.0), (1, 2))])
    assert drawn(sampler, 2) == [3, 1]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_an_answer_does_not_end_before_its_time(temperature: float):
    """Nor may the token that would end it be drawn where a guess at the one before was right."""
    sampler = Sampler(4)
    sampling = Sampling(temperature=temperature, min_tokens=3, late_token_ids=(1, 3), logit_bias=((1, 100.0),))
    sampler.admit([Admission(0, sampling)])
    assert set(drawn(sampler, 1)) <= {0, 2}
    guessed = SequenceChunk(0, 1, 3, sample_index=1, proposed_token_ids=(2, 2))
    tokens = [one.token_id for one in sampler.draw(logits_of(*[SCORES] * 3), [guessed])]
    if temperature == 0.0:
        assert tokens == [2, 2, 1]
    assert not {1, 3} & set(tokens[:2])
    sampler.admit([Admission(1, sampling, answer_token_ids=(2, 2, 2))])
    assert drawn(sampler, 1, sequence_index=1, start=3) == [1]


class GreatestAlone:
    """Fits engine.Logits, but that there are no values."""

    greatest: ClassVar = [3, 1]

    @property
    def values(self) -> NDArray[np.float32]:
        raise AssertionError("they are of no use here")

    def log_sum(self, row: int) -> float:
        raise AssertionError("it is of no use here")


def test_nothing_asked_for_costs_nothing():
    sampler = Sampler(4)
    sampler.admit([Admission(0, GREEDY), Admission(1, GREEDY)])
    assert [token.token_id for token in sampler.draw(GreatestAlone(), [chunk(0, 0), chunk(1, 0)])] == [3, 1]


@pytest.mark.parametrize("late", [(4,), (0, 2**31)])
def test_late_tokens_beyond_the_vocabulary_are_refused(late: tuple[int, ...]):
    with pytest.raises(MalformedStep, match="not within the vocabulary"):
        Sampler(4).admit([Admission(0, Sampling(min_tokens=1, late_token_ids=late))])


def test_a_replayed_answer_goes_on_as_if_it_had_never_stopped():
    sampling = Sampling(temperature=0.8, seed=4, frequency_penalty=0.5, repetition_penalty=1.1)
    whole = Sampler(4)
    whole.admit([Admission(0, sampling, (0, 2))])
    expected = drawn(whole, 12)
    for num_emitted in (0, 1, 7):
        replayed = Sampler(4)
        replayed.admit([Admission(3, sampling, (0, 2), tuple(expected[:num_emitted]))])
        assert drawn(replayed, 12 - num_emitted, sequence_index=3, start=num_emitted) == expected[num_emitted:]


def test_an_index_forgets_its_last_owner():
    sampler = Sampler(4)
    sampler.admit([Admission(0, Sampling(temperature=0.0, logit_bias=((3, 100.0),), logprobs=1))])
    assert drawn(sampler, 2) == [3, 3]
    sampler.admit([Admission(0, GREEDY)])
    assert drawn(sampler, 2) == [1, 1]
    assert sampler.draw(LOGITS, [chunk(0, 2)])[0].logprobs is None


def test_each_row_has_its_own_sampling_and_logprobs_stay_raw():
    sampler = Sampler(4)
    biased = Sampling(temperature=0.0, logit_bias=((0, 50.0),), logprobs=2)
    sampler.admit([Admission(0, GREEDY), Admission(5, biased)])
    first, second = sampler.draw(logits_of(*[SCORES] * 2), [chunk(0, 0), chunk(5, 0)])
    assert (first.sequence_index, first.token_id, first.logprobs) == (0, 1, None)
    assert (second.sequence_index, second.token_id) == (5, 0)
    assert second.logprobs is not None
    assert second.logprobs.chosen == pytest.approx(-np.log(np.exp(SCORES).sum()), abs=1e-5)
    assert [token_id for token_id, _ in second.logprobs.top] == [1, 2]


@pytest.mark.parametrize(
    "admission",
    [
        Admission(0, Sampling(logit_bias=((4, 1.0),))),
        Admission(0, Sampling(repetition_penalty=2.0), (1, 4)),
        Admission(0, Sampling(presence_penalty=1.0), (), (2**31,)),
    ],
)
def test_tokens_beyond_the_vocabulary_are_refused_and_the_indices_are_nobodys(admission: Admission):
    sampler = Sampler(4)
    sampler.admit([Admission(0, GREEDY), Admission(1, GREEDY), Admission(2, GREEDY)])
    with pytest.raises(MalformedStep, match="not within the vocabulary"):
        sampler.admit([Admission(1, GREEDY), admission])
    sampler.check_admitted([chunk(2, 0)])
    for index in (0, 1):
        with pytest.raises(MalformedStep, match="never admitted"):
            sampler.check_admitted([chunk(index, 0)])


def test_a_new_epoch_knows_nobody():
    sampler = Sampler(4)
    sampler.admit([Admission(0, Sampling(presence_penalty=1.0))])
    sampler.reset()
    with pytest.raises(MalformedStep):
        sampler.check_admitted([chunk(0, 0)])


def run_of(sampling: Sampling, proposed: tuple[int, ...], num_rows: int) -> list[int]:
    """What a chunk with proposals draws from rows of the same scores."""
    sampler = Sampler(4)
    sampler.admit([Admission(0, sampling)])
    one = SequenceChunk(0, 0, num_rows, sample_index=0, proposed_token_ids=proposed)
    return [token.token_id for token in sampler.draw(logits_of(*[SCORES] * num_rows), [one])]


@pytest.mark.parametrize(
    "sampling", [GREEDY, Sampling(temperature=2.0, seed=5), Sampling(temperature=0.0, frequency_penalty=0.15)]
)
def test_a_run_ends_after_the_first_token_that_was_not_proposed(sampling: Sampling):
    sampler = Sampler(4)
    sampler.admit([Admission(0, sampling)])
    one_by_one = drawn(sampler, 4)
    right = tuple(one_by_one[:3])
    assert run_of(sampling, right, 4) == one_by_one
    for wrong_at in range(3):
        proposed = (*right[:wrong_at], (right[wrong_at] + 1) % 4, *right[wrong_at + 1 :])
        assert run_of(sampling, proposed, 4) == one_by_one[: wrong_at + 1]


def test_runs_of_several_sequences_do_not_mix():
    sampler = Sampler(4)
    sampler.admit([Admission(0, GREEDY), Admission(1, GREEDY), Admission(2, GREEDY)])
    logits = logits_of(*np.eye(4)[[1, 2, 3, 0, 3, 3]])
    chunks = [
        SequenceChunk(0, 0, 3, sample_index=4, proposed_token_ids=(1, 2)),
        SequenceChunk(1, 7, 1, sample_index=1),
        SequenceChunk(2, 0, 2, sample_index=2, proposed_token_ids=(0,)),
    ]
    assert [(one.sequence_index, one.token_id) for one in sampler.draw(logits, chunks)] == [
        (0, 1),
        (0, 2),
        (0, 3),
        (1, 0),
        (2, 3),
    ]
