"""Grouped-query attention over a ragged batch: each sequence attends to its own tokens, nothing is padded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812 - the name that every torch program gives it
from torch import Tensor

from exo_lite.domain.step import SequenceChunk
from exo_lite.engine.torch_c.kv_cache import CacheSpan, KVCache
from exo_lite.engine.torch_c.layers import Linear
from exo_lite.engine.torch_c.rope import apply_rope


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """The inputs that all layers of a step share: rotations per row; per chunk its rows, cache span and mask."""

    cos: Tensor
    sin: Tensor
    num_tokens: tuple[int, ...]
    spans: tuple[CacheSpan, ...]
    masks: tuple[Tensor | None, ...]


def open_batch(chunks: Sequence[SequenceChunk], kv_cache: KVCache) -> Batch:
    """chunks: at least one, each within the cache."""
    dtype, device = kv_cache.keys.dtype, kv_cache.keys.device
    positions = [position for one in chunks for position in range(one.position, one.position + one.num_tokens)]
    cos, sin = kv_cache.rope.at(torch.tensor(positions, device=device))
    return Batch(
        cos,
        sin,
        num_tokens=tuple(chunk.num_tokens for chunk in chunks),
        spans=tuple(kv_cache.span(chunk) for chunk in chunks),
        masks=tuple(causal_mask(chunk.position, chunk.num_tokens, dtype, device) for chunk in chunks),
    )


def causal_mask(position: int, num_tokens: int, dtype: torch.dtype, device: torch.device) -> Tensor | None:
    """Return what to add to scores: [num_tokens, position + num_tokens], -inf if a key is later than the query.

    None where the kernel needs none: a single query sees every key, a chunk at position 0 is square.
    """
    if num_tokens == 1 or position == 0:
        return None
    later = torch.full((num_tokens, position + num_tokens), float("-inf"), dtype=dtype, device=device)
    return later.triu_(position + 1)


def attend(queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
    """Causal attention of one sequence's newest tokens.

    queries: [tokens, heads, head_dim]; keys, values: [1, kv_heads, length, head_dim]; mask: of `causal_mask`.
    Returns [tokens, heads * head_dim].
    """
    num_tokens, num_heads, head_dim = queries.shape
    num_kv_heads = keys.shape[1]
    if num_tokens == 1 and queries.dtype == torch.float32:
        # the heads of a group as the rows of one query: each key is read once for all of them, at a third of the cost;
        # in smaller types that rounds otherwise than the published models do, and greedy answers part from theirs
        grouped = queries.reshape(1, num_kv_heads, num_heads // num_kv_heads, head_dim)
        return F.scaled_dot_product_attention(grouped, keys, values).reshape(1, -1)
    attended = F.scaled_dot_product_attention(
        queries.transpose(0, 1).unsqueeze(0),
        keys,
        values,
        attn_mask=mask,
        is_causal=mask is None and num_tokens > 1,
        enable_gqa=num_heads != num_kv_heads,
    )
    return attended.transpose(1, 2).reshape(num_tokens, -1)


@dataclass(frozen=True, slots=True, eq=False)
class Attention:
    """qkv holds the rows of q, k and v in this order; qk_norm: [heads + kv_heads, head_dim] (Qwen3)."""

    qkv: Linear
    output: Linear
    qk_norm: Tensor | None
    num_heads: int
    num_kv_heads: int
    head_dim: int
    eps: float

    def __call__(self, hidden: Tensor, batch: Batch, layer: int) -> Tensor:
        """Write the new keys and values of every chunk and attend. `layer` counts within the shard."""
        queries, keys, values = (rows.split_with_sizes(batch.num_tokens) for rows in self._project(hidden, batch))
        attended = []
        for index, span in enumerate(batch.spans):
            span.write(layer, keys[index], values[index])
            attended.append(attend(queries[index], *span.read(layer), batch.masks[index]))
        return self.output(attended[0] if len(attended) == 1 else torch.cat(attended))

    def _project(self, hidden: Tensor, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Rotated queries and keys, and values: [tokens, (kv_)heads, head_dim]."""
        projected = self.qkv(hidden).view(hidden.shape[0], -1, self.head_dim)
        qk, values = projected.split_with_sizes((self.num_heads + self.num_kv_heads, self.num_kv_heads), dim=1)
        if self.qk_norm is not None:
            qk = F.rms_norm(qk, (self.head_dim,), eps=self.eps) * self.qk_norm
        queries, keys = apply_rope(qk, batch.cos, batch.sin).split_with_sizes(
            (self.num_heads, self.num_kv_heads), dim=1
        )
        return queries, keys, values

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        norms = () if self.qk_norm is None else (self.qk_norm,)
        return (*self.qkv.tensors, *self.output.tensors, *norms)
