"""A second engine, on numpy alone: a Llama in float32, one token after the other. It shows what a new one has to bring.

Slow and small, and exact: a row's sums never depend on what else is in the step.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file

from exo_lite.domain.engine import Detected
from exo_lite.domain.errors import MalformedStep
from exo_lite.domain.footprint import Footprint, ShardBytes
from exo_lite.domain.load_options import LoadOptions
from exo_lite.domain.model_spec import ModelSpec
from exo_lite.domain.shard import Shard
from exo_lite.domain.step import KV_BLOCK_TOKENS, HiddenStates, SequenceChunk, num_kv_blocks

Floats = NDArray[np.float32]
FLOAT_BYTES = 4


class NumpyEngine:
    """Fits engine.Engine."""

    name = "numpy"

    def footprint(self, spec: ModelSpec, options: LoadOptions) -> Footprint:
        matrix, norm = FLOAT_BYTES * spec.embedding_parameters, FLOAT_BYTES * spec.hidden_size
        cache = 2 * FLOAT_BYTES * spec.kv_size * KV_BLOCK_TOKENS * _num_blocks(options)
        row = FLOAT_BYTES * (4 * spec.hidden_size + spec.intermediate_size)
        return Footprint(
            n_layers=spec.n_layers,
            layer=ShardBytes(FLOAT_BYTES * spec.layer_parameters, cache, 0),
            first=ShardBytes(matrix, 0, row),
            middle=ShardBytes(0, 0, row),
            last=ShardBytes(matrix + norm, 0, row),
            only=ShardBytes(2 * matrix + norm, 0, row),
            lm_head_bytes=matrix,
        )

    def detect(self, wanted: str) -> Detected:
        if wanted not in ("auto", "cpu"):
            raise LookupError(f"numpy has no {wanted}")
        return Detected("cpu", "", "cpu", self.name)

    def prepare(self, num_threads: int) -> None:
        pass

    def load(
        self,
        model_dir: Path,
        spec: ModelSpec,
        shard: Shard,
        options: LoadOptions,
        *,
        device: str,
        on_progress: Callable[[float], None],
    ) -> NumpyShard:
        tensors: Mapping[str, Floats] = load_file(model_dir / "model.safetensors")
        on_progress(1.0)
        return NumpyShard(spec, shard, tensors, options)


def _num_blocks(options: LoadOptions) -> int:
    return options.num_slots * num_kv_blocks(options.context_length)


class NumpyShard:
    """Fits engine.LoadedShard. keys, values: [layers, tokens of all blocks, kv_heads, head_dim]."""

    numerics = "numpy"

    def __init__(self, spec: ModelSpec, shard: Shard, tensors: Mapping[str, Floats], options: LoadOptions) -> None:
        self.spec = spec
        self.shard = shard
        self.num_sequences = options.num_sequences
        self._tensors = tensors
        self._num_blocks = _num_blocks(options)
        self._blocks: dict[int, tuple[int, ...]] = {}
        shape = (shard.num_layers, self._num_blocks * KV_BLOCK_TOKENS, spec.num_key_value_heads, spec.head_dim)
        self._keys, self._values = np.zeros(shape, np.float32), np.zeros(shape, np.float32)

    def admit(self, sequence_index: int, blocks: Sequence[int] = (), *, num_cached_tokens: int = 0) -> None:
        per_slot = self._num_blocks // (self.num_sequences // 4)
        own = range(sequence_index * per_slot, min((sequence_index + 1) * per_slot, self._num_blocks))
        if any(block >= self._num_blocks for block in blocks):
            raise MalformedStep(f"sequence {sequence_index} was given blocks {list(blocks)} of {self._num_blocks}")
        self._blocks[sequence_index] = tuple(blocks) or tuple(own)

    def forward(self, inputs: Sequence[int] | HiddenStates, chunks: Sequence[SequenceChunk]) -> NumpyRows:
        where = [(one.sequence_index, one.position + index) for one in chunks for index in range(one.num_tokens)]
        hidden = self._enter(inputs)
        if len(hidden) != len(where):
            raise MalformedStep(f"the chunks count {len(where)} tokens, the input has {len(hidden)} rows")
        for layer, index in enumerate(self.shard.layers):
            weights = _Weights(self._tensors, f"model.layers.{index}.")
            hidden = np.stack([self._layer(layer, weights, row, *at) for row, at in zip(hidden, where, strict=True)])
        return NumpyRows(self, hidden)

    def logits(self, hidden: Floats) -> Floats:
        """[rows, hidden_size] to [rows, vocab_size]."""
        weights = _Weights(self._tensors, "")
        normed = [rms_norm(row, weights["model.norm"], self.spec.rms_norm_eps) for row in hidden]
        return np.stack([weights["lm_head"] @ row for row in normed])

    def _enter(self, inputs: Sequence[int] | HiddenStates) -> Floats:
        if isinstance(inputs, HiddenStates):
            return np.frombuffer(inputs.data, np.float32).reshape(inputs.num_tokens, inputs.hidden_size)
        if not all(0 <= token_id < self.spec.vocab_size for token_id in inputs):
            raise MalformedStep("a token id is not within the vocabulary")
        return self._tensors["model.embed_tokens.weight"][[*inputs]]

    def _layer(self, layer: int, weights: _Weights, row: Floats, sequence_index: int, position: int) -> Floats:
        """One token through one layer. row: [hidden_size]."""
        eps = self.spec.rms_norm_eps
        x = rms_norm(row, weights["input_layernorm"], eps)
        row = row + weights["self_attn.o_proj"] @ self._attend(layer, weights, x, sequence_index, position)
        x = rms_norm(row, weights["post_attention_layernorm"], eps)
        gate = weights["mlp.gate_proj"] @ x
        inner: Floats = gate / (1 + np.exp(-gate)) * (weights["mlp.up_proj"] @ x)
        return row + weights["mlp.down_proj"] @ inner

    def _attend(self, layer: int, weights: _Weights, x: Floats, sequence_index: int, position: int) -> Floats:
        spec, cells = self.spec, self._cells(sequence_index, position + 1)
        queries, keys, values = (
            (weights[f"self_attn.{name}_proj"] @ x).reshape(-1, spec.head_dim) for name in ("q", "k", "v")
        )
        cos, sin = rotation(spec, position)
        self._keys[layer, cells[-1]] = rotated(keys, cos, sin)
        self._values[layer, cells[-1]] = values
        group = spec.num_attention_heads // spec.num_key_value_heads
        heads = []
        for head, query in enumerate(rotated(queries, cos, sin)):
            scores = self._keys[layer, cells, head // group] @ query / np.float32(spec.head_dim**0.5)
            shares = np.exp(scores - scores.max())
            heads.append(shares / shares.sum() @ self._values[layer, cells, head // group])
        return np.concatenate(heads)

    def _cells(self, sequence_index: int, length: int) -> list[int]:
        """Return the places of a sequence's first tokens in the cache."""
        blocks = self._blocks[sequence_index]
        return [blocks[at // KV_BLOCK_TOKENS] * KV_BLOCK_TOKENS + at % KV_BLOCK_TOKENS for at in range(length)]


@dataclass(frozen=True, slots=True)
class NumpyRows:
    """Fits engine.ComputedRows. hidden: [rows, hidden_size]."""

    shard: NumpyShard
    hidden: Floats

    def hidden_states(self) -> HiddenStates:
        return HiddenStates("float32", len(self.hidden), self.hidden.shape[1], self.hidden.tobytes())

    def logits(self, rows: Sequence[int]) -> NumpyLogits:
        return NumpyLogits(self.shard.logits(self.hidden[[*rows]]))


@dataclass(frozen=True, slots=True)
class NumpyLogits:
    """Fits engine.Logits."""

    values: Floats

    @property
    def greatest(self) -> list[int]:
        token_ids: list[int] = self.values.argmax(axis=-1).tolist()
        return token_ids

    def log_sum(self, row: int) -> float:
        return float(np.logaddexp.reduce(self.values[row].astype(np.float64)))


@dataclass(frozen=True, slots=True)
class _Weights:
    tensors: Mapping[str, Floats]
    prefix: str

    def __getitem__(self, name: str) -> Floats:
        return self.tensors[f"{self.prefix}{name}.weight"]


def rms_norm(x: Floats, weight: Floats, eps: float) -> Floats:
    return x / np.sqrt(np.mean(x * x) + np.float32(eps)) * weight


def rotation(spec: ModelSpec, position: int) -> tuple[Floats, Floats]:
    """cos and sin of one position: [head_dim / 2]."""
    exponents = np.arange(0, spec.head_dim, 2, dtype=np.float32) / spec.head_dim
    angles = position / np.power(np.float32(spec.rope_theta), exponents)
    return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)


def rotated(heads: Floats, cos: Floats, sin: Floats) -> Floats:
    """heads: [heads, head_dim], half-split layout."""
    first, second = np.split(heads, 2, axis=-1)
    return np.concatenate((first * cos - second * sin, second * cos + first * sin), axis=-1)
