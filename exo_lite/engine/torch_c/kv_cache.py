"""Keys and values of the sequences under way, for the layers of one shard, in blocks that sequences own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from exo_lite.domain.errors import MalformedStep
from exo_lite.domain.model_spec import ModelSpec
from exo_lite.domain.step import KV_BLOCK_TOKENS, SequenceChunk, num_kv_blocks
from exo_lite.engine.torch_c.huge_pages import advise_huge_pages
from exo_lite.engine.torch_c.rope import rope_tables


class CacheSpan(Protocol):
    """One chunk's part of the cache: what it writes, and all that it attends to."""

    def write(self, layer: int, keys: Tensor, values: Tensor) -> None:
        """keys, values: [num_tokens, kv_heads, head_dim], of the chunk itself."""

    def read(self, layer: int) -> tuple[Tensor, Tensor]:
        """Keys and values [1, kv_heads, position + num_tokens, head_dim], once the chunk's own are written."""


class KVCache:
    """Room for `num_slots` sequences of `context_length` tokens, shared by up to `num_sequences` shorter ones.

    keys, values: [num_layers, kv_heads, num_blocks * KV_BLOCK_TOKENS, head_dim], in memory that the system has given
    from the start, so that none is missing in the middle of an answer. Each sequence owns the blocks of its row of
    `tables`, int32 [num_sequences, blocks of a full context]; until `admit` gives it others, sequence i owns the i-th
    part of the pool. Keys are kept rotated, by `rope`, whose tables are of the cache's own type; `is_exact`: float32,
    as on every other processor.

    The layout inside a block belongs to the engine that writes it. Floats, and integers in torch, keep keys and values
    as the shape says, a token's numbers together. The C kernels of integers keep the keys of each block transposed,
    [head_dim, KV_BLOCK_TOKENS]; native/kv_layout.h says why. So a cache is read by whoever wrote it and by nobody else;
    blocks as a whole can be handed on and copied.
    """

    def __init__(
        self,
        spec: ModelSpec,
        num_layers: int,
        num_slots: int,
        context_length: int,
        dtype: torch.dtype,
        device: torch.device | str,
        *,
        num_sequences: int | None = None,
        is_exact: bool = False,
    ) -> None:
        blocks_per_slot = num_kv_blocks(context_length)
        self.num_layers = num_layers
        self.num_blocks = num_slots * blocks_per_slot
        self.num_sequences = num_sequences or num_slots
        self.context_length = context_length
        shape = (num_layers, spec.num_key_value_heads, self.num_blocks * KV_BLOCK_TOKENS, spec.head_dim)
        self.keys = _committed(torch.empty(shape, dtype=dtype, device=device))
        self.values = _committed(torch.empty(shape, dtype=dtype, device=device))
        rope_dtype, working_dtype = (torch.float32, torch.float64) if is_exact else (dtype, torch.float32)
        self.rope = rope_tables(spec, context_length, rope_dtype, torch.device(device), working_dtype=working_dtype)
        self.tables = torch.zeros((self.num_sequences, blocks_per_slot), dtype=torch.int32)
        self._blocks: list[tuple[int, ...]] = [()] * self.num_sequences
        self._lengths = [0] * self.num_sequences
        for sequence_index in range(self.num_sequences):
            self.admit(sequence_index)

    @property
    def num_bytes(self) -> int:
        """The bytes of keys and values when every block is full."""
        return self.keys.nbytes + self.values.nbytes

    def admit(self, sequence_index: int, blocks: Sequence[int] = (), *, num_cached_tokens: int = 0) -> None:
        """The sequence owns these blocks from now on, which hold so many of its tokens already.

        By default its own part of the pool, if it has one. Raises MalformedStep for blocks that do not exist or cannot
        hold so much.
        """
        if not blocks:
            start = sequence_index * self.tables.shape[1]
            blocks = range(start, min(start + self.tables.shape[1], self.num_blocks))
        if len(blocks) > self.tables.shape[1] or any(not 0 <= block < self.num_blocks for block in blocks):
            raise MalformedStep(f"sequence {sequence_index} was given blocks {list(blocks)} of {self.num_blocks}")
        if not 0 <= num_cached_tokens <= len(blocks) * KV_BLOCK_TOKENS:
            raise MalformedStep(
                f"sequence {sequence_index} cannot hold {num_cached_tokens} tokens in {len(blocks)} blocks"
            )
        self._blocks[sequence_index] = tuple(blocks)
        self.tables[sequence_index, : len(blocks)] = torch.tensor(list(blocks), dtype=torch.int32)
        self._lengths[sequence_index] = num_cached_tokens

    def capacity(self, sequence_index: int) -> int:
        """Tokens that the sequence's blocks hold at most."""
        return min(self.context_length, len(self._blocks[sequence_index]) * KV_BLOCK_TOKENS)

    def length(self, sequence_index: int) -> int:
        """Tokens that the sequence holds."""
        return self._lengths[sequence_index]

    def token_indices(self, sequence_index: int, length: int) -> Tensor:
        """Return the places of a sequence's first `length` tokens: int64 [length]."""
        blocks = self.tables[sequence_index, : num_kv_blocks(length)].long()
        inside = torch.arange(KV_BLOCK_TOKENS)
        indices = (blocks.unsqueeze(1) * KV_BLOCK_TOKENS + inside).view(-1)[:length]
        return indices.to(self.keys.device)

    def span(self, chunk: SequenceChunk) -> CacheSpan:
        """Return the part of the cache that a chunk reads and writes; it must lie within the cache."""
        end = chunk.position + chunk.num_tokens
        blocks = self._blocks[chunk.sequence_index][: num_kv_blocks(end)]
        if blocks == tuple(range(blocks[0], blocks[0] + len(blocks))):
            start = blocks[0] * KV_BLOCK_TOKENS
            return _Run(*_views(self.keys, start, chunk), *_views(self.values, start, chunk))
        return _Scattered(self.keys, self.values, self.token_indices(chunk.sequence_index, end), chunk.position)

    def commit(self, chunks: Sequence[SequenceChunk]) -> None:
        """Count the chunks as held, after every layer has written them; what stood beyond them is forgotten."""
        for chunk in chunks:
            self._lengths[chunk.sequence_index] = chunk.position + chunk.num_tokens


@dataclass(frozen=True, slots=True, eq=False)
class _Run:
    """Blocks that follow each other: views, nothing is copied. A tensor per layer."""

    keys: tuple[Tensor, ...]
    new_keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    new_values: tuple[Tensor, ...]

    def write(self, layer: int, keys: Tensor, values: Tensor) -> None:
        self.new_keys[layer].copy_(keys)
        self.new_values[layer].copy_(values)

    def read(self, layer: int) -> tuple[Tensor, Tensor]:
        return self.keys[layer], self.values[layer]


@dataclass(frozen=True, slots=True, eq=False)
class _Scattered:
    """Blocks here and there: gathered for each layer."""

    keys: Tensor
    values: Tensor
    indices: Tensor
    position: int

    def write(self, layer: int, keys: Tensor, values: Tensor) -> None:
        new = self.indices[self.position :]
        self.keys[layer].index_copy_(1, new, keys.transpose(0, 1))
        self.values[layer].index_copy_(1, new, values.transpose(0, 1))

    def read(self, layer: int) -> tuple[Tensor, Tensor]:
        keys, values = (cache[layer].index_select(1, self.indices) for cache in (self.keys, self.values))
        return keys.unsqueeze(0), values.unsqueeze(0)


def _views(cache: Tensor, start: int, chunk: SequenceChunk) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Return a chunk's reads and writes per layer. Made once a step: slicing costs more than copying a token."""
    held = cache[:, :, start : start + chunk.position + chunk.num_tokens].unsqueeze(1)
    new = held[:, 0, :, chunk.position :].transpose(1, 2)
    return held.unbind(0), new.unbind(0)


def _committed(tensor: Tensor) -> Tensor:
    """The same tensor, written to once: until then the system only promises memory."""
    return advise_huge_pages(tensor).zero_()
