"""A shard with integer weights: exact, so that a token's numbers never depend on what is computed beside it."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812 - the name that every torch program gives it
from torch import Tensor

from exo_lite.domain.errors import InvalidShard
from exo_lite.domain.model_spec import ModelSpec
from exo_lite.domain.shard import Shard
from exo_lite.domain.step import SequenceChunk
from exo_lite.engine.torch_c import portable
from exo_lite.engine.torch_c.attention import Batch, open_batch
from exo_lite.engine.torch_c.kv_cache import KVCache
from exo_lite.engine.torch_c.native.constants import LANES
from exo_lite.engine.torch_c.native.kernels import NativeKernels, describe
from exo_lite.engine.torch_c.native.layout import FLOAT_TYPES, CLayer, CModel, pointer
from exo_lite.engine.torch_c.native.rows import embed
from exo_lite.engine.torch_c.numerics import C_KERNELS, torch_numerics
from exo_lite.engine.torch_c.quantized import QuantizedLinear
from exo_lite.engine.torch_c.rope import apply_rope
from exo_lite.engine.torch_c.step_checks import check_chunks, check_hidden_states, check_logits, check_token_ids
from exo_lite.engine.torch_c.weight_format import TILE


@dataclass(frozen=True, slots=True, eq=False)
class IntegerLayer:
    """Norm weights: float32 [hidden_size]; qk_norm: [heads + kv_heads, head_dim].

    gate_up has a tile of gates, then the tile of their ups, and so on.
    """

    attention_norm: Tensor
    mlp_norm: Tensor
    qk_norm: Tensor | None
    qkv: QuantizedLinear
    output: QuantizedLinear
    gate_up: QuantizedLinear
    down: QuantizedLinear


class IntegerShard:
    """Like LlamaShard; hidden states are float32, so that a split between stages rounds nothing.

    `kernels` None: the portable path.
    """

    dtype = torch.float32

    def __init__(
        self,
        spec: ModelSpec,
        shard: Shard,
        *,
        layers: tuple[IntegerLayer, ...],
        embedding: Tensor | None,
        norm: Tensor | None,
        lm_head: QuantizedLinear | None,
        kv_dtype: torch.dtype,
        device: torch.device,
        kernels: NativeKernels | None,
        activation_bytes: int = 2,
    ) -> None:
        self.spec = spec
        self.shard = shard
        self.layers = layers
        self.embedding = embedding
        self.norm = norm
        self.lm_head = lm_head
        self.device = device
        self._kv_dtype = kv_dtype
        self._activation_bytes = activation_bytes
        fits = device.type == "cpu" and spec.head_dim % LANES == 0
        self._kernels = kernels if fits else None
        self._bound: tuple[KVCache, CModel] | None = None

    @property
    def numerics(self) -> str:
        """The numbers of the kernels that serve this shard: where sizes don't suit ours, torch's do."""
        return torch_numerics(self.device.type) if self._kernels is None else C_KERNELS

    @property
    def num_bytes(self) -> int:
        tensors = [self.embedding, self.norm, *(self.lm_head.tensors if self.lm_head else ())]
        for layer in self.layers:
            tensors += [layer.attention_norm, layer.mlp_norm, layer.qk_norm]
            for linear in (layer.qkv, layer.output, layer.gate_up, layer.down):
                tensors += linear.tensors
        return sum(tensor.nbytes for tensor in tensors if tensor is not None)

    def new_cache(self, num_slots: int, context_length: int, num_sequences: int | None = None) -> KVCache:
        """Make a cache, as LlamaShard.new_cache does."""
        return KVCache(
            self.spec,
            len(self.layers),
            num_slots,
            context_length,
            self._kv_dtype,
            self.device,
            num_sequences=num_sequences,
            is_exact=True,
        )

    def forward(self, inputs: Tensor, chunks: Sequence[SequenceChunk], kv_cache: KVCache) -> Tensor:
        """Compute, as LlamaShard.forward does."""
        check_chunks(chunks, inputs.shape[0] if inputs.dim() else 0, kv_cache)
        hidden = self._enter(inputs)
        if not chunks:
            return hidden
        if self._kernels is None:
            self._forward_portable(hidden, chunks, kv_cache)
        else:
            where = [(one.sequence_index, one.position + i) for one in chunks for i in range(one.num_tokens)]
            self._kernels.forward(self._bind(kv_cache), hidden, where)
        kv_cache.commit(chunks)
        return hidden

    def logits(self, hidden_states: Tensor) -> Tensor:
        """Compute logits, as LlamaShard.logits does."""
        if self.norm is None or self.lm_head is None:
            raise InvalidShard(
                f"{self.shard} has no output head: it is not the last one of {self.shard.n_layers} layers"
            )
        check_hidden_states(hidden_states, self.spec.hidden_size, self.dtype)
        eps = self.spec.rms_norm_eps
        if self._kernels is None:
            logits = portable.linear(self.lm_head, self._quantize(hidden_states, self.norm))
        else:
            logits = self._kernels.linear(
                self.lm_head, hidden_states.contiguous(), self.norm, eps, activation_bytes=self._activation_bytes
            )
        check_logits(logits, self._kv_dtype)
        return logits

    def _enter(self, inputs: Tensor) -> Tensor:
        """Rows that may be changed."""
        if self.embedding is None:
            check_hidden_states(inputs, self.spec.hidden_size, self.dtype)
            return inputs.clone()
        if self._kernels is not None and (embedded := embed(inputs, self.embedding)) is not None:
            return embedded
        check_token_ids(inputs, self.spec.vocab_size)
        return F.embedding(inputs, self.embedding).float()

    def _forward_portable(self, hidden: Tensor, chunks: Sequence[SequenceChunk], kv_cache: KVCache) -> None:
        batch = open_batch(chunks, kv_cache)
        for index, layer in enumerate(self.layers):
            qkv = portable.linear(layer.qkv, self._quantize(hidden, layer.attention_norm))
            attended = self._attend_portable(index, qkv, batch)
            hidden += portable.linear(layer.output, self._quantize(attended))
            gate_up = portable.linear(layer.gate_up, self._quantize(hidden, layer.mlp_norm))
            gate, up = gate_up.view(hidden.shape[0], -1, 2, TILE).unbind(2)
            inner = (F.silu(gate) * up).flatten(1)[:, : self.spec.intermediate_size]
            hidden += portable.linear(layer.down, self._quantize(inner))

    def _quantize(self, x: Tensor, norm: Tensor | None = None) -> portable.Activations:
        return portable.quantize(x, norm, self.spec.rms_norm_eps, self._activation_bytes)

    def _attend_portable(self, index: int, qkv: Tensor, batch: Batch) -> Tensor:
        """[rows, heads * head_dim]."""
        spec, qk_norm = self.spec, self.layers[index].qk_norm
        num_heads, num_kv_heads = spec.num_attention_heads, spec.num_key_value_heads
        heads = qkv.view(qkv.shape[0], -1, spec.head_dim)
        qk, values = heads.split_with_sizes((num_heads + num_kv_heads, num_kv_heads), 1)
        if qk_norm is not None:
            qk = F.rms_norm(qk, (spec.head_dim,), eps=spec.rms_norm_eps) * qk_norm
        queries, keys = apply_rope(qk, batch.cos, batch.sin).split_with_sizes((num_heads, num_kv_heads), 1)
        rows, first = [], 0
        for num_tokens, span in zip(batch.num_tokens, batch.spans, strict=True):
            own = slice(first, first + num_tokens)
            span.write(index, keys[own], values[own])
            all_keys, all_values = (cache[0] for cache in span.read(index))
            for row, length in enumerate(range(all_keys.shape[1] - num_tokens + 1, all_keys.shape[1] + 1), first):
                rows.append(portable.attend_row(queries[row], all_keys[:, :length], all_values[:, :length]))
            first += num_tokens
        return torch.stack(rows)

    def _bind(self, kv_cache: KVCache) -> CModel:
        """The model as the kernels see it, over this cache."""
        if self._bound is None or self._bound[0] is not kv_cache:
            self._bound = (kv_cache, self._describe(kv_cache))
        return self._bound[1]

    def _describe(self, kv_cache: KVCache) -> CModel:
        spec = self.spec
        layers = (CLayer * len(self.layers))()
        for index, layer in enumerate(self.layers):
            layers[index] = CLayer(
                attention_norm=pointer(layer.attention_norm),
                mlp_norm=pointer(layer.mlp_norm),
                qk_norm=pointer(layer.qk_norm),
                qkv=describe(layer.qkv, self._activation_bytes),
                output=describe(layer.output, self._activation_bytes),
                gate_up=describe(layer.gate_up, self._activation_bytes),
                down=describe(layer.down, self._activation_bytes),
                keys=pointer(kv_cache.keys[index]),
                values=pointer(kv_cache.values[index]),
            )
        return CModel(
            hidden=spec.hidden_size,
            intermediate=spec.intermediate_size,
            heads=spec.num_attention_heads,
            kv_heads=spec.num_key_value_heads,
            head_dim=spec.head_dim,
            context=kv_cache.context_length,
            num_layers=len(self.layers),
            kv_type=FLOAT_TYPES[kv_cache.keys.dtype],
            cache_tokens=kv_cache.keys.shape[2],
            blocks_per_sequence=kv_cache.tables.shape[1],
            block_tables=pointer(kv_cache.tables),
            eps=spec.rms_norm_eps,
            cos=pointer(kv_cache.rope.cos),
            sin=pointer(kv_cache.rope.sin),
            layers=ctypes.cast(layers, ctypes.POINTER(CLayer)),
        )
