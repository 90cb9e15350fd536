"""The size of prompt chunks on machines of any speed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exo_lite.domain.step import PREFILL_CHUNK_TOKENS
from exo_lite.pipeline.chunk_size import LIMIT_MS, MIN_CHUNK_TOKENS, ChunkSize

WARM_UP_TOKENS = 32


def settled(fixed_ms: float, token_ms: float) -> list[int]:
    """The sizes of the chunks after the warm-up of a machine that takes so long for a step and for each token."""
    size, sizes = ChunkSize(), []
    size.learn(WARM_UP_TOKENS, fixed_ms + WARM_UP_TOKENS * token_ms)
    for _ in range(20):
        sizes.append(size.tokens)
        size.learn(size.tokens, fixed_ms + size.tokens * token_ms)
    return sizes


def test_a_fast_machine_computes_the_largest_chunks_from_the_first():
    assert set(settled(5.0, 0.1)) == {PREFILL_CHUNK_TOKENS}


@pytest.mark.parametrize("token_ms", [4.0, 17.0, 60.0, 2000.0])
def test_a_slow_machine_computes_chunks_of_a_second_from_the_first(token_ms):
    first, *others = settled(0.0, token_ms)
    assert first * token_ms <= LIMIT_MS or first == MIN_CHUNK_TOKENS
    assert set(others) == {first}


@given(st.floats(0.0, 2000.0), st.floats(0.01, 500.0))
def test_the_size_comes_to_rest_within_the_limit(fixed_ms, token_ms):
    *_, before, last = settled(fixed_ms, token_ms)
    assert before == last
    assert fixed_ms + last * token_ms <= LIMIT_MS or last == MIN_CHUNK_TOKENS


def test_the_short_end_of_a_prompt_does_not_make_chunks_smaller():
    size = ChunkSize()
    size.learn(PREFILL_CHUNK_TOKENS, 900.0)
    size.learn(20, 400.0)
    size.learn(1, 300.0)
    assert size.tokens == PREFILL_CHUNK_TOKENS


def test_a_machine_that_becomes_slow_gets_smaller_chunks_and_larger_ones_again_when_it_recovers():
    size = ChunkSize()
    for token_ms in (1.0, 20.0, 1.0):
        for _ in range(12):
            size.learn(size.tokens, size.tokens * token_ms)
        assert size.tokens == (PREFILL_CHUNK_TOKENS if token_ms == 1.0 else 64)
