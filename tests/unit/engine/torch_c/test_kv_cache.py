"""The KV cache: its size, its views, what its sequences hold."""

import psutil
import pytest
import torch

from exo_lite.domain.errors import MalformedStep
from exo_lite.domain.model_spec import ModelSpec
from exo_lite.domain.step import SequenceChunk
from exo_lite.engine.torch_c.kv_cache import KVCache

SPEC = ModelSpec("llama", 4, 32, 48, 4, 2, 8, 97, 64)


def make_cache(dtype=torch.bfloat16, context_length=16):
    return KVCache(SPEC, 3, 2, context_length, dtype, "cpu")


def test_counts_its_bytes_in_whole_blocks():
    assert make_cache().num_bytes == 2 * 3 * 2 * 2 * 64 * 8 * 2
    assert make_cache(context_length=65).num_bytes == 2 * make_cache().num_bytes
    assert make_cache(torch.float32).num_bytes == 2 * make_cache().num_bytes


def test_its_memory_is_there_before_it_is_needed():
    before = psutil.Process().memory_info().rss
    cache = KVCache(SPEC, 3, 2**15, 64, torch.bfloat16, "cpu", num_sequences=2)
    assert psutil.Process().memory_info().rss - before > 0.9 * cache.num_bytes > 2**28


@pytest.mark.parametrize("blocks", [(), (1,), (3, 0), (2, 3)])
def test_a_span_sees_all_up_to_its_end_and_writes_its_own_part(blocks):
    cache = make_cache(torch.float32, context_length=100)
    cache.keys.zero_()
    cache.values.zero_()
    cache.admit(1, blocks)
    kept = torch.randn(5, 2, 8)
    cache.span(SequenceChunk(1, 0, 5)).write(2, kept, kept)
    new_keys, new_values = torch.ones(3, 2, 8), torch.full((3, 2, 8), 2.0)
    span = cache.span(SequenceChunk(1, 4, 3))
    span.write(2, new_keys, new_values)
    keys, values = span.read(2)
    assert torch.equal(keys[0], torch.cat((kept[:4], new_keys)).transpose(0, 1))
    assert torch.equal(values[0], torch.cat((kept[:4], new_values)).transpose(0, 1))
    own = torch.zeros(4 * 64, dtype=torch.bool)
    own[cache.token_indices(1, 7)] = True
    assert not cache.keys[2][:, ~own].any()
    assert not cache.keys[:2].any()


def test_scattered_blocks_hold_long_sequences_in_order():
    cache = make_cache(torch.float32, context_length=200)
    cache.admit(0, (6, 1, 4))
    assert cache.capacity(0) == 192
    rows = torch.randn(150, 2, 8)
    for start, end in ((0, 70), (70, 71), (71, 150)):
        span = cache.span(SequenceChunk(0, start, end - start))
        span.write(1, rows[start:end], -rows[start:end])
    keys, values = cache.span(SequenceChunk(0, 149, 1)).read(1)
    assert torch.equal(keys[0].transpose(0, 1), rows)
    assert torch.equal(values[0].transpose(0, 1), -rows)


def test_more_sequences_than_slots_share_the_blocks():
    cache = KVCache(SPEC, 1, 2, 128, torch.float32, "cpu", num_sequences=8)
    assert [cache.capacity(index) for index in range(8)] == [128, 128, 0, 0, 0, 0, 0, 0]
    cache.admit(7, (1,))
    assert cache.capacity(7) == 64
    for wrong in ((4,), (-1,), (0, 1, 2)):
        with pytest.raises(MalformedStep, match="sequence 7 was given blocks"):
            cache.admit(7, wrong)


def test_a_sequence_may_hold_tokens_from_its_admission_on():
    cache = KVCache(SPEC, 1, 2, 128, torch.float32, "cpu", num_sequences=8)
    cache.admit(5, (2, 0), num_cached_tokens=64)
    assert cache.length(5) == 64
    for wrong in (129, -1):
        with pytest.raises(MalformedStep, match=f"sequence 5 cannot hold {wrong} tokens in 2 blocks"):
            cache.admit(5, (2, 0), num_cached_tokens=wrong)


def test_a_sequence_holds_what_was_committed_last():
    cache = make_cache()
    cache.commit([SequenceChunk(0, 0, 5), SequenceChunk(1, 0, 2)])
    cache.commit([SequenceChunk(0, 5, 1)])
    assert (cache.length(0), cache.length(1)) == (6, 2)
    cache.commit([SequenceChunk(0, 0, 2)])
    assert cache.length(0) == 2
