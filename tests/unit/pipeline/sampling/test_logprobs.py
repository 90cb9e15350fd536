"""Log probabilities: the raw softmax, whatever the sampling, alone and in batches."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from exo_lite.domain.request import MAX_TOP_LOGPROBS, Sampling
from exo_lite.engine.torch_c.loaded_shard import TorchLogits
from exo_lite.pipeline.sampling import logprobs as module

ASKED = st.none() | st.integers(0, MAX_TOP_LOGPROBS)


def logprobs_of(values, samplings, token_ids):
    logits = TorchLogits(torch.from_numpy(values))
    return [
        None if sampling.logprobs is None else module.logprobs_of(logits, row, token_id, sampling.logprobs)
        for row, (sampling, token_id) in enumerate(zip(samplings, token_ids, strict=True))
    ]


def test_they_are_those_of_the_raw_softmax():
    logits = torch.randn(2, 50, generator=torch.Generator().manual_seed(0))
    expected = logits.double().log_softmax(-1)
    sampling = Sampling(0.1, top_k=1, repetition_penalty=2.0, logit_bias=((4, 50.0),), logprobs=5)
    found, unasked = logprobs_of(logits.numpy(), [sampling, Sampling()], [4, 5])
    assert unasked is None
    assert found is not None
    assert found.chosen == pytest.approx(float(expected[0, 4]), abs=1e-9)
    values, ids = expected[0].topk(5)
    assert [token_id for token_id, _ in found.top] == ids.tolist()
    assert [value for _, value in found.top] == pytest.approx(values.tolist(), abs=1e-9)


def test_zero_asks_for_the_chosen_token_alone():
    [found] = logprobs_of(np.zeros((1, 4), np.float32), [Sampling(logprobs=0)], [2])
    assert found is not None
    assert found.top == ()
    assert found.chosen == pytest.approx(-1.3862943611)


def test_no_more_than_the_vocabulary_has():
    [found] = logprobs_of(np.zeros((1, 3), np.float32), [Sampling(logprobs=20)], [0])
    assert found is not None
    assert [token_id for token_id, _ in found.top] == [0, 1, 2]


@settings(max_examples=100, deadline=None)
@given(asked=st.lists(ASKED, min_size=1, max_size=8), seed=st.integers(0, 1000))
def test_a_row_has_the_same_alone_in_any_batch_and_with_more_asked(asked, seed):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randint(0, 4, (len(asked), 70), generator=generator).float().numpy()  # many equals
    samplings = [Sampling(logprobs=number) for number in asked]
    token_ids = torch.randint(0, 70, (len(asked),), generator=generator).tolist()
    together = logprobs_of(logits, samplings, token_ids)
    for row, (sampling, token_id) in enumerate(zip(samplings, token_ids, strict=True)):
        assert logprobs_of(logits[row : row + 1], [sampling], [token_id]) == [together[row]]
        [most] = logprobs_of(logits[row : row + 1], [Sampling(logprobs=MAX_TOP_LOGPROBS)], [token_id])
        if (found := together[row]) is not None and most is not None:
            assert (found.chosen, found.top) == (most.chosen, most.top[: sampling.logprobs])
