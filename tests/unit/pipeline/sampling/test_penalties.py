"""Bias and penalties against transformers and a few plain lines, row by row and in batches."""

from __future__ import annotations

import random
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from transformers import RepetitionPenaltyLogitsProcessor

from exo_lite.domain.request import Sampling
from exo_lite.pipeline.sampling.drawing import draw_token
from exo_lite.pipeline.sampling.penalties import ScoreChanges

VOCAB_SIZE = 40
Logits = NDArray[np.float32]


def changed_scores(logits, changes):
    return [row if one is None else one.applied(row) for row, one in zip(logits, changes, strict=True)]


def sample(scores, samplings, indices):
    return [draw_token(*row) for row in zip(scores, samplings, indices, strict=True)]


def random_logits(num_rows: int, seed: int) -> Logits:
    return np.random.default_rng(seed).normal(0.0, 5.0, (num_rows, VOCAB_SIZE)).astype(np.float32)


def plainly(logits: Logits, sampling: Sampling, prompt: list[int], answer: list[int]) -> NDArray[np.float64]:
    """The documented order, one token after the other."""
    scores = logits.astype(np.float64).tolist()
    for token_id, bias in sampling.logit_bias:
        scores[token_id] += bias
    for token_id in set(prompt) | set(answer):
        score, penalty = scores[token_id], sampling.repetition_penalty
        scores[token_id] = score / penalty if score > 0 else score * penalty
    for token_id, count in Counter(answer).items():
        scores[token_id] -= sampling.presence_penalty + sampling.frequency_penalty * count
    return np.array(scores)


@st.composite
def rows(draw):
    """Sampling, prompt and answer of one row."""
    token_ids = st.lists(st.integers(0, VOCAB_SIZE - 1), max_size=12)
    bias = draw(st.dictionaries(st.integers(0, VOCAB_SIZE - 1), st.floats(-100, 100), max_size=4))
    sampling = Sampling(
        temperature=draw(st.sampled_from([0.0, 0.7, 1.0])),
        seed=draw(st.integers(0, 2**64 - 1)),
        repetition_penalty=draw(st.sampled_from([1.0, 0.8, 1.3])),
        presence_penalty=draw(st.sampled_from([0.0, -1.0, 2.0])),
        frequency_penalty=draw(st.sampled_from([0.0, -0.5, 1.5])),
        logit_bias=tuple(bias.items()),
        min_p=draw(st.sampled_from([0.0, 0.1])),
        top_k=draw(st.sampled_from([0, 5])),
    )
    return sampling, draw(token_ids), draw(token_ids)


def changes_of(row) -> ScoreChanges | None:
    sampling, prompt, answer = row
    return ScoreChanges(sampling, sorted(set(prompt)), answer) if sampling.changes_scores else None


@settings(max_examples=150, deadline=None)
@given(batch=st.lists(rows(), min_size=1, max_size=8), seed=st.integers(0, 1000))
def test_every_row_of_a_batch_changes_as_documented(batch, seed):
    logits = random_logits(len(batch), seed)
    before = logits.copy()
    scores = changed_scores(logits, [changes_of(row) for row in batch])
    assert np.array_equal(logits, before)
    for row, one in enumerate(batch):
        np.testing.assert_allclose(scores[row].astype(np.float64), plainly(logits[row], *one), rtol=0, atol=1e-12)


@settings(max_examples=60, deadline=None)
@given(batch=st.lists(rows(), min_size=8, max_size=8), seed=st.integers(0, 1000), index=st.integers(0, 10**6))
def test_a_draw_is_the_same_alone_and_among_seven_others(batch, seed, index):
    logits = random_logits(8, seed)
    samplings = [sampling for sampling, _, _ in batch]
    together = sample(changed_scores(logits, [changes_of(row) for row in batch]), samplings, [index] * 8)
    for row, one in enumerate(batch):
        alone = logits[row : row + 1]
        assert sample(changed_scores(alone, [changes_of(one)]), [one[0]], [index]) == [together[row]]


@pytest.mark.parametrize("penalty", [0.5, 1.0001, 1.3, 5.0])
def test_repetition_is_that_of_transformers(penalty):
    logits = random_logits(3, 1)
    generator = random.Random(0)
    seen = [[generator.randrange(VOCAB_SIZE) for _ in range(20)] for _ in range(3)]
    expected = RepetitionPenaltyLogitsProcessor(penalty)(torch.tensor(seen), torch.from_numpy(logits.copy()))
    sampling = Sampling(repetition_penalty=penalty)
    scores = changed_scores(logits, [ScoreChanges(sampling, sorted(set(ids[:12])), ids[12:]) for ids in seen])
    np.testing.assert_allclose(scores, expected, rtol=1.3e-6, atol=1e-5)


def test_counting_one_by_one_is_counting_at_once():
    sampling = Sampling(repetition_penalty=1.2, presence_penalty=0.3, frequency_penalty=0.7)
    logits, answer = random_logits(1, 2), [3, 9, 3, 3, 11]
    grown = ScoreChanges(sampling, [1, 9], [])
    for token_id in answer:
        grown.add(token_id)
    replayed = ScoreChanges(sampling, [1, 9], answer)
    assert np.array_equal(changed_scores(logits, [grown]), changed_scores(logits, [replayed]))


def test_a_distribution_alone_changes_no_scores():
    assert not Sampling(temperature=0.3, top_k=4, top_p=0.5, min_p=0.1, logprobs=3).changes_scores


def test_presence_and_frequency_leave_the_prompt_alone():
    sampling = Sampling(presence_penalty=2.0, frequency_penalty=2.0)
    logits = random_logits(1, 4)
    assert np.array_equal(changed_scores(logits, [ScoreChanges(sampling, [1, 2, 3], [])]), logits)


def test_a_bias_of_100_forces_and_of_minus_100_bans():
    logits = random_logits(1, 5)
    best = int(logits.argmax())
    for bias, expected in (((7, 100.0),), {7}), (((best, -100.0),), set(range(VOCAB_SIZE)) - {best}):
        sampling = Sampling(logit_bias=bias)
        scores = changed_scores(logits, [ScoreChanges(sampling, [], [])]) * 300
        drawn = set(sample(scores, [sampling] * 300, range(300)))
        assert drawn <= expected


def test_late_tokens_are_not_drawn_even_where_nothing_else_is_likely():
    sampling = Sampling(min_tokens=2, late_token_ids=(0, 1), logit_bias=((0, 100.0), (1, 100.0)))
    changes = ScoreChanges(sampling, [], [])
    assert not {0, 1} & set(
        sample(changed_scores(random_logits(300, 6), [changes] * 300), [sampling] * 300, range(300))
    )
    everything = Sampling(min_tokens=1, late_token_ids=tuple(range(VOCAB_SIZE)), temperature=1.0)
    [drawn] = sample(changed_scores(random_logits(1, 7), [ScoreChanges(everything, [], [])]), [everything], [0])
    assert 0 <= drawn < VOCAB_SIZE


def test_draws_follow_the_penalized_distribution():
    sampling = Sampling(repetition_penalty=1.5, presence_penalty=0.5, frequency_penalty=0.25, logit_bias=((2, 1.0),))
    logits = np.array([[1.0, 0.5, -0.5, 0.0, 0.8]], np.float32)
    changes = ScoreChanges(sampling, [0], [4, 4])
    scores = changed_scores(logits, [changes])
    tokens = sample(scores * 4000, [sampling] * 4000, range(4000))
    frequencies = np.bincount(tokens, minlength=5) / 4000
    weights = np.exp(plainly(logits[0], sampling, [0], [4, 4]))
    expected = weights / weights.sum()
    assert float(4000 * ((frequencies - expected) ** 2 / expected).sum()) < 20


def test_the_greatest_penalty_of_the_greatest_score_is_finite():
    logits = np.array([[-3.4e38, 3.4e38]], np.float32)
    changes = ScoreChanges(Sampling(repetition_penalty=100.0), [0, 1], [])
    assert np.isfinite(changed_scores(logits, [changes])).all()
