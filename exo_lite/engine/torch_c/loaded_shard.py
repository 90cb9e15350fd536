"""A shard and its KV cache as the seam between engines and stages has them: bytes in, bytes or numpy arrays out."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from exo_lite.domain.model_spec import ModelSpec
from exo_lite.domain.shard import Shard
from exo_lite.domain.step import HiddenStates, SequenceChunk
from exo_lite.engine.engine import Logits
from exo_lite.engine.torch_c.integer_shard import IntegerShard
from exo_lite.engine.torch_c.kv_cache import KVCache
from exo_lite.engine.torch_c.llama import LlamaShard
from exo_lite.engine.torch_c.native.rows import greatest, is_quick
from exo_lite.engine.torch_c.tensor_bytes import from_hidden_states, to_hidden_states

AnyShard = LlamaShard | IntegerShard


class TorchShard:
    """Fits engine.LoadedShard."""

    def __init__(self, shard: AnyShard, kv_cache: KVCache) -> None:
        self._shard = shard
        self._kv_cache = kv_cache

    @property
    def spec(self) -> ModelSpec:
        return self._shard.spec

    @property
    def shard(self) -> Shard:
        return self._shard.shard

    @property
    def numerics(self) -> str | None:
        return self._shard.numerics

    @property
    def num_sequences(self) -> int:
        return self._kv_cache.num_sequences

    def admit(self, sequence_index: int, blocks: Sequence[int] = (), *, num_cached_tokens: int = 0) -> None:
        self._kv_cache.admit(sequence_index, blocks, num_cached_tokens=num_cached_tokens)

    @torch.inference_mode()
    def forward(self, inputs: Sequence[int] | HiddenStates, chunks: Sequence[SequenceChunk]) -> TorchRows:
        return TorchRows(self._shard, self._shard.forward(self._tensor(inputs), chunks, self._kv_cache))

    def _tensor(self, inputs: Sequence[int] | HiddenStates) -> Tensor:
        if isinstance(inputs, HiddenStates):
            return from_hidden_states(inputs, self._shard.device)
        return torch.tensor(inputs, dtype=torch.int64, device=self._shard.device)


class TorchRows:
    """Fits engine.ComputedRows. hidden: [rows, hidden_size]."""

    def __init__(self, shard: AnyShard, hidden: Tensor) -> None:
        self._shard = shard
        self._hidden = hidden

    def hidden_states(self) -> HiddenStates:
        return to_hidden_states(self._hidden)

    @torch.inference_mode()
    def logits(self, rows: Sequence[int]) -> Logits:
        chosen = self._hidden if len(rows) == len(self._hidden) else self._hidden[[*rows]]
        logits = self._shard.logits(chosen)
        tokens = greatest(logits) if is_quick(logits) else logits.argmax(dim=-1).tolist()
        return Logits(logits.cpu().numpy(), tokens)
