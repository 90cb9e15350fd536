"""Draws: their distribution, their edges, and that nothing else in a batch changes them."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import MinPLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from exo_lite.domain.request import Sampling
from exo_lite.pipeline.sampling import drawing as module
from exo_lite.pipeline.sampling.drawing import draw_token, uniform

PROBABILITIES = torch.tensor([0.05, 0.4, 0.1, 0.25, 0.2])
LOGITS = PROBABILITIES.log()


def sample(scores, samplings, indices):
    return [draw_token(*row) for row in zip(scores.numpy(), samplings, indices, strict=True)]


def draws(logits, parameters, count=4000):
    """`count` draws of one request, as frequencies per token."""
    tokens = sample(logits.expand(count, -1), [parameters] * count, range(count))
    return torch.bincount(torch.tensor(tokens), minlength=logits.shape[-1]) / count


def chi_square(frequencies, probabilities, count=4000):
    kept = probabilities > 0
    assert frequencies[~kept].sum() == 0
    return float(count * ((frequencies - probabilities)[kept] ** 2 / probabilities[kept]).sum())


def test_uniform_numbers_are_fixed_for_ever():
    assert [uniform(0, 0), uniform(0, 1), uniform(2**64 - 1, 7)] == [
        0.1610461637495153,
        0.9128808760131747,
        0.03880544431912891,
    ]


def test_uniform_numbers_spread_evenly():
    numbers = [uniform(seed, index) for seed in range(40) for index in range(100)]
    assert all(0 <= number < 1 for number in numbers)
    assert len(set(numbers)) == 4000
    counts = torch.histc(torch.tensor(numbers), bins=10, min=0, max=1)
    assert ((counts - 400) ** 2 / 400).sum() < 40


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.0])
def test_draws_follow_the_distribution(temperature):
    expected = (LOGITS / temperature).softmax(-1)
    assert chi_square(draws(LOGITS, Sampling(temperature)), expected) < 25


def test_draws_follow_the_distribution_over_a_large_vocabulary():
    torch.manual_seed(0)
    logits = torch.randn(3000)
    expected = logits.softmax(-1)
    groups = torch.arange(3000) % 10
    grouped = torch.zeros(10).index_add(0, groups, draws(logits, Sampling()))
    assert chi_square(grouped, torch.zeros(10).index_add(0, groups, expected)) < 35


def test_greedy_takes_the_lowest_of_equal_ids():
    logits = torch.tensor([[0.0, 3.0, 3.0, 1.0], [2.0, 2.0, 2.0, 2.0]])
    assert sample(logits, [Sampling(temperature=0)] * 2, [0, 1]) == [1, 0]


@pytest.mark.parametrize(
    ("parameters", "kept"),
    [
        (Sampling(top_k=1), [1]),
        (Sampling(top_k=2), [1, 3]),
        (Sampling(top_k=5), [0, 1, 2, 3, 4]),
        (Sampling(top_k=1000), [0, 1, 2, 3, 4]),
        (Sampling(top_p=0.0), [1]),
        (Sampling(top_p=1e-9), [1]),
        (Sampling(top_p=0.39), [1]),
        (Sampling(top_p=0.41), [1, 3]),
        (Sampling(top_p=0.66), [1, 3, 4]),
        (Sampling(top_p=1 - 1e-16), [0, 1, 2, 3, 4]),
        (Sampling(top_k=3, top_p=0.46), [1]),
        (Sampling(top_k=3, top_p=0.48), [1, 3]),
        (Sampling(min_p=1.0), [1]),
        (Sampling(min_p=0.6), [1, 3]),
        (Sampling(min_p=0.49), [1, 3, 4]),
        (Sampling(min_p=0.1), [0, 1, 2, 3, 4]),
        (Sampling(min_p=1e-300), [0, 1, 2, 3, 4]),
        (Sampling(min_p=0.49, top_k=2), [1, 3]),
        (Sampling(min_p=0.6, top_k=3), [1, 3]),
        (Sampling(min_p=0.49, top_p=0.41), [1, 3]),
        (Sampling(temperature=1e-300), [1]),
        (Sampling(temperature=5e-324), [1]),
    ],
)
def test_top_k_top_p_and_min_p_keep_the_likeliest(parameters, kept):
    expected = torch.zeros(5)
    expected[kept] = PROBABILITIES[kept] / PROBABILITIES[kept].sum()
    assert chi_square(draws(LOGITS, parameters), expected) < 25


@pytest.mark.parametrize(
    "parameters",
    [
        Sampling(0.7, top_k=9),
        Sampling(1.0, top_p=0.8),
        Sampling(1.3, min_p=0.08),
        Sampling(1.0, min_p=0.5),
        Sampling(0.9, top_k=30, top_p=0.9),
        Sampling(1.6, top_k=30, top_p=0.9, min_p=0.05),
    ],
)
def test_what_can_be_drawn_is_what_transformers_leaves(parameters):
    for seed in range(5):
        logits = torch.randn(1, 60, generator=torch.Generator().manual_seed(seed))
        scores = logits / parameters.temperature
        warpers = [
            TopKLogitsWarper(parameters.top_k or 60),
            TopPLogitsWarper(parameters.top_p),
            MinPLogitsWarper(parameters.min_p),
        ]
        for warper in warpers:
            scores = warper(torch.tensor([[0]]), scores)
        expected = scores.softmax(-1)[0]
        assert chi_square(draws(logits, parameters, 3000), expected, 3000) < 2.5 * int((expected > 0).sum()) + 20


def test_top_k_keeps_the_lowest_of_equal_ids():
    assert set(sample(torch.zeros(200, 6), [Sampling(top_k=2)] * 200, range(200))) == {0, 1}


def test_the_smallest_set_that_reaches_top_p_exactly():
    logits = torch.tensor([0.5, 0.25, 0.25]).log()
    assert draws(logits, Sampling(top_p=0.5))[0] == 1
    assert draws(logits, Sampling(top_p=0.75))[2] == 0


@st.composite
def batches(draw):
    """Rows with many equal scores, and parameters of every kind."""
    num_rows = draw(st.integers(1, 5))
    seed = draw(st.integers(0, 2**32))
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randint(0, 6, (num_rows, draw(st.sampled_from([1, 7, 40]))), generator=generator)
    parameters = st.builds(
        Sampling,
        temperature=st.sampled_from([0.0, 0.2, 1.0, 2.0]),
        top_p=st.sampled_from([1e-6, 0.3, 0.9, 1.0]),
        top_k=st.sampled_from([0, 1, 3, 8, 39, 100]),
        min_p=st.sampled_from([0.0, 1e-9, 0.1, 0.5, 1.0]),
        seed=st.integers(0, 2**64 - 1),
    )
    rows = st.lists(parameters, min_size=num_rows, max_size=num_rows)
    return scores.float(), draw(rows), draw(st.integers(0, 10**6))


@given(batches())
@settings(max_examples=60, deadline=None)
def test_a_draw_is_the_same_alone_and_in_any_batch(batch):
    logits, parameters, index = batch
    indices = [index + row for row in range(len(parameters))]
    alone = [sample(logits[row : row + 1], [parameters[row]], [indices[row]])[0] for row in range(len(parameters))]
    assert sample(logits, parameters, indices) == alone
    assert sample(logits.flip(0), parameters[::-1], indices[::-1]) == alone[::-1]


@given(batches())
@settings(max_examples=60, deadline=None)
def test_few_candidates_draw_what_the_whole_vocabulary_draws(batch):
    logits, parameters, index = batch
    indices = [index] * len(parameters)
    expected = sample(logits, parameters, indices)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "NUM_CANDIDATES", 4)
        assert sample(logits, parameters, indices) == expected


def test_a_draw_at_the_very_end_takes_a_possible_token(monkeypatch):
    monkeypatch.setattr(module, "uniform", lambda seed, index: 1 - 2.0**-53)
    logits = torch.full((1, 50), -1e30)
    logits[0, [3, 9, 20]] = torch.tensor([0.1, 0.2, 0.3])
    for num_candidates in (4, 512):
        monkeypatch.setattr(module, "NUM_CANDIDATES", num_candidates)
        for parameters in (Sampling(), Sampling(top_p=1 - 1e-16), Sampling(top_k=50)):
            assert sample(logits, [parameters], [0]) == [3]


def test_greedy_and_drawn_rows_share_a_batch():
    logits = LOGITS.repeat(3, 1)
    greedy = Sampling(temperature=0)
    drawn = Sampling(seed=5)
    expected = sample(LOGITS[None], [drawn], [2])[0]
    assert sample(logits, [greedy, drawn, greedy], [0, 2, 1]) == [1, expected, 1]
    others = [sample(LOGITS[None], [replace(drawn, seed=seed)], [2])[0] for seed in range(20)]
    assert len(set(others)) > 1


def test_no_rows_no_tokens():
    assert sample(torch.empty(0, 5), [], []) == []
