"""Checks of a step before anything is computed. Every function raises MalformedStep."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from exo_lite.domain.errors import MalformedStep
from exo_lite.domain.step import SequenceChunk
from exo_lite.engine.torch_c.finite import is_finite
from exo_lite.engine.torch_c.kv_cache import KVCache


def check_chunks(chunks: Sequence[SequenceChunk], num_rows: int, kv_cache: KVCache) -> None:
    """Each within the cache and without a gap behind what its sequence holds; as many tokens as there are rows."""
    num_tokens = sum(chunk.num_tokens for chunk in chunks)
    if num_tokens != num_rows:
        raise MalformedStep(f"the chunks count {num_tokens} tokens, the input has {num_rows} rows")
    lengths: dict[int, int] = {}
    for chunk in chunks:
        _check_range(chunk, kv_cache)
        length = lengths.get(chunk.sequence_index, kv_cache.length(chunk.sequence_index))
        if chunk.position > length:
            raise MalformedStep(
                f"sequence {chunk.sequence_index} holds {length} tokens, its chunk starts at {chunk.position}"
            )
        lengths[chunk.sequence_index] = chunk.position + chunk.num_tokens


def _check_range(chunk: SequenceChunk, kv_cache: KVCache) -> None:
    if not 0 <= chunk.sequence_index < kv_cache.num_sequences:
        raise MalformedStep(f"sequence {chunk.sequence_index} is not within 0..{kv_cache.num_sequences - 1}")
    if chunk.num_tokens < 1 or chunk.position < 0:
        raise MalformedStep(f"a chunk of {chunk.num_tokens} tokens at position {chunk.position} is none")
    end = chunk.position + chunk.num_tokens
    if end > kv_cache.capacity(chunk.sequence_index):
        raise MalformedStep(
            f"sequence {chunk.sequence_index}: {chunk.num_tokens} tokens at position {chunk.position} end at {end},"
            f" beyond its room for {kv_cache.capacity(chunk.sequence_index)}"
        )


def check_token_ids(token_ids: Tensor, vocab_size: int) -> None:
    """int64 [tokens], each within the vocabulary."""
    if token_ids.dtype != torch.int64 or token_ids.dim() != 1:
        raise MalformedStep(f"token ids must be int64 [tokens], not {token_ids.dtype} {list(token_ids.shape)}")
    if token_ids.numel() == 0:
        return
    smallest, greatest = (int(bound.item()) for bound in torch.aminmax(token_ids))
    if smallest < 0 or greatest >= vocab_size:
        wrong = smallest if smallest < 0 else greatest
        raise MalformedStep(f"token id {wrong} is not within the vocabulary, 0..{vocab_size - 1}")


def check_hidden_states(hidden_states: Tensor, hidden_size: int, dtype: torch.dtype) -> None:
    """[tokens, hidden_size] of the shard's own type, all finite."""
    if hidden_states.dim() != 2 or hidden_states.shape[1] != hidden_size or hidden_states.dtype != dtype:
        found = f"{hidden_states.dtype} {list(hidden_states.shape)}"
        raise MalformedStep(f"hidden states must be {dtype} [tokens, {hidden_size}], not {found}")
    if not is_finite(hidden_states):
        raise MalformedStep(
            f"hidden states hold NaN or infinity: a layer before overflowed, or they were damaged; {_way_out(dtype)}"
        )


def check_logits(logits: Tensor, dtype: torch.dtype) -> None:
    """Check that all numbers are finite; `dtype` is the type that the model computes in or keeps its cache in."""
    if not is_finite(logits):
        raise MalformedStep(f"logits hold NaN or infinity: the model overflowed; {_way_out(dtype)}")


def _way_out(dtype: torch.dtype) -> str:
    """float16 ends at 65,504: models that were trained in bfloat16 may go beyond."""
    other = "float32" if dtype == torch.bfloat16 else "bfloat16"
    return f"unload the model and load it with `--dtype {other}`"
