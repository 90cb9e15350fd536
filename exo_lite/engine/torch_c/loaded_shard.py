"""A shard and its KV cache as the seam between engines and stages has them: bytes in, bytes or numpy arrays out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from exo_lite.domain.model_spec import ModelSpec
from exo_lite.domain.shard import Shard
from exo_lite.domain.step import HiddenStates, SequenceChunk
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

    def logits(self, rows: Sequence[int]) -> TorchLogits:  # no inference_mode: to enter it takes longer than it saves
        chosen = self._hidden if len(rows) == len(self._hidden) else self._hidden[[*rows]]
        return TorchLogits(self._shard.logits(chosen))


class TorchLogits:
    """Fits engine.Logits. rows: float32 [rows, vocab_size]."""

    __slots__ = ("_greatest", "_rows", "_values")

    def __init__(self, rows: Tensor) -> None:
        self._rows = rows
        self._greatest: list[int] | None = None
        self._values: NDArray[np.float32] | None = None

    @property
    def values(self) -> NDArray[np.float32]:
        if self._values is None:
            self._values = self._rows.cpu().numpy()
        return self._values

    @property
    def greatest(self) -> list[int]:
        rows, found = self._rows, self._greatest
        if found is None:
            found = self._greatest = greatest(rows) if is_quick(rows) else rows.argmax(dim=-1).tolist()
        return found

    def log_sum(self, row: int) -> float:
        wide = self._rows[row].cpu().double()  # not every device has float64
        top = wide.max()
        return float(wide.sub_(top).exp_().sum().log_().add_(top))
