"""All layers of a float shard over a few rows in one C call: what torch computes but for the order of sums."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from exo_lite.domain.model_spec import ModelSpec
from exo_lite.domain.step import KV_BLOCK_TOKENS, SequenceChunk
from exo_lite.engine.torch_c.kv_cache import KVCache
from exo_lite.engine.torch_c.layers import Linear
from exo_lite.engine.torch_c.native.constants import LANES
from exo_lite.engine.torch_c.native.few_rows import UNIT, FewRows, describe
from exo_lite.engine.torch_c.native.kernels import c_rows
from exo_lite.engine.torch_c.native.layout import (
    FLOAT_TYPES,
    CFloatLayer,
    CFloatLinear,
    CFloatModel,
    CFloatScratch,
    pointer,
)
from exo_lite.engine.torch_c.weight_format import padded

if TYPE_CHECKING:
    from exo_lite.engine.torch_c.llama import DecoderLayer


class FloatLayers:
    """Serves steps of up to `few_rows.max_rows` rows."""

    def __init__(self, few_rows: FewRows, spec: ModelSpec, layers: Sequence[DecoderLayer]) -> None:
        self._library = few_rows.library
        self._spec = spec
        self._layers = layers
        self.max_rows = few_rows.max_rows
        self._bound: tuple[KVCache, CFloatModel, _Scratch] | None = None

    def forward(self, hidden: Tensor, chunks: Sequence[SequenceChunk], kv_cache: KVCache) -> Tensor:
        """Hidden states [rows, hidden_size] after all layers; the cache keeps the rows' keys and values."""
        where = [(one.sequence_index, one.position + i) for one in chunks for i in range(one.num_tokens)]
        model, scratch = self._bind(kv_cache)
        hidden = hidden.contiguous().clone()
        self._library.el_float_forward(
            *(ctypes.byref(model), pointer(hidden), len(where), c_rows(where), ctypes.byref(scratch.described)),
            torch.get_num_threads(),
        )
        return hidden

    def _bind(self, kv_cache: KVCache) -> tuple[CFloatModel, _Scratch]:
        """The model as the kernel sees it, over this cache."""
        if self._bound is None or self._bound[0] is not kv_cache:
            model = self._describe(kv_cache)
            widest = max(linear.n for layer in model.layers[: len(self._layers)] for linear in _linears(layer))
            deepest = max(linear.k for layer in model.layers[: len(self._layers)] for linear in _linears(layer))
            self._bound = (kv_cache, model, _Scratch(self.max_rows, model, widest, deepest))
        return self._bound[1], self._bound[2]

    def _describe(self, kv_cache: KVCache) -> CFloatModel:
        spec, layers = self._spec, (CFloatLayer * len(self._layers))()
        for index, layer in enumerate(self._layers):
            layers[index] = CFloatLayer(
                attention_norm=pointer(layer.attention_norm),
                mlp_norm=pointer(layer.mlp_norm),
                qk_norm=pointer(layer.attention.qk_norm),
                qkv=_described(layer.attention.qkv),
                output=_described(layer.attention.output),
                gate_up=_described(layer.mlp.gate_up),
                down=_described(layer.mlp.down),
                keys=pointer(kv_cache.keys[index]),
                values=pointer(kv_cache.values[index]),
            )
        return CFloatModel(
            hidden=spec.hidden_size,
            heads=spec.num_attention_heads,
            kv_heads=spec.num_key_value_heads,
            head_dim=spec.head_dim,
            context=kv_cache.context_length,
            num_layers=len(self._layers),
            type=FLOAT_TYPES[kv_cache.keys.dtype],
            cache_tokens=kv_cache.keys.shape[2],
            blocks_per_sequence=kv_cache.tables.shape[1],
            block_tables=pointer(kv_cache.tables),
            eps=spec.rms_norm_eps,
            cos=pointer(kv_cache.rope.cos),
            sin=pointer(kv_cache.rope.sin),
            layers=ctypes.cast(layers, ctypes.POINTER(CFloatLayer)),
        )


class _Scratch:
    """Working memory of the kernel for `rows` rows."""

    def __init__(self, rows: int, model: CFloatModel, widest: int, deepest: int) -> None:
        self._tensors = {
            "hidden": torch.empty(rows * model.hidden),
            "x": torch.empty(rows * deepest),  # float32 is the widest type
            "wide": torch.empty(rows * widest),
            "scores": torch.empty(torch.get_num_threads() * padded(model.context, KV_BLOCK_TOKENS)),
        }
        self.described = CFloatScratch(**{name: tensor.data_ptr() for name, tensor in self._tensors.items()})


def fits(spec: ModelSpec) -> bool:
    """Say whether every size is a whole number of the kernel's lanes."""
    sizes = (spec.hidden_size, spec.intermediate_size, spec.q_size)
    return all(size % UNIT == 0 for size in sizes) and spec.head_dim % LANES == 0


def _described(linear: Linear) -> CFloatLinear:
    return describe(linear.weight, linear.bias)


def _linears(layer: CFloatLayer) -> tuple[CFloatLinear, ...]:
    return (layer.qkv, layer.output, layer.gate_up, layer.down)
