"""Loading a shard as integers: tensor by tensor, quantized as they are read, or as an earlier load has kept them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from exo_lite.checkpoint.pieces import LM_HEAD_PIECE, layer_piece
from exo_lite.checkpoint.shard_entries import shard_entries
from exo_lite.checkpoint.tensor_names import EMBEDDING, NORM, layer_prefix, lm_head_name
from exo_lite.domain.model_spec import DType, ModelSpec
from exo_lite.domain.shard import Shard
from exo_lite.engine.torch_c.dtypes import TORCH_DTYPES
from exo_lite.engine.torch_c.integer_shard import IntegerLayer, IntegerShard
from exo_lite.engine.torch_c.native.kernels import NativeKernels, native_library
from exo_lite.engine.torch_c.quantized import QuantizedLinear, empty_linear
from exo_lite.engine.torch_c.quantized_cache import QuantizedCache
from exo_lite.engine.torch_c.quantizing import quantize_rows
from exo_lite.engine.torch_c.weight_format import TILE, Kind, padded
from exo_lite.engine.torch_c.weights import TensorReader

_LAYER_LINEARS = {
    "qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "output": ("self_attn.o_proj",),
    "gate_up": ("mlp.gate_proj", "mlp.up_proj"),
    "down": ("mlp.down_proj",),
}


def load_integer_shard(
    model_dir: Path,
    spec: ModelSpec,
    shard: Shard,
    *,
    kind: Kind,
    activation_bytes: int = 2,
    dtype: DType,
    device: str,
    on_progress: Callable[[float], None],
) -> IntegerShard:
    """Load as load_shard does; `dtype` is that of the embedding and the KV cache; activations have one byte or two.

    Memory peaks at what the shard keeps and a block of a few MiB.
    """
    entries = shard_entries(model_dir, spec, shard)
    reader = TensorReader(entries, TORCH_DTYPES[dtype], torch.device("cpu"), on_progress)
    loader = _Loader(reader, model_dir, kind, torch.device(device))
    embedding = reader.tensor(f"{EMBEDDING}.weight").to(device) if shard.is_first else None
    layers = tuple(_layer(loader, spec, layer) for layer in shard.layers)
    library = native_library()
    return IntegerShard(
        spec,
        shard,
        layers=layers,
        embedding=embedding,
        norm=loader.vector(f"{NORM}.weight") if shard.is_last else None,
        lm_head=_lm_head(loader.of_kind("int8"), spec) if shard.is_last else None,
        kv_dtype=TORCH_DTYPES[dtype],
        device=torch.device(device),
        kernels=NativeKernels(library) if library is not None else None,
        activation_bytes=activation_bytes,
    )


def _layer(loader: _Loader, spec: ModelSpec, layer: int) -> IntegerLayer:
    prefix = layer_prefix(layer)
    linears = loader.linears(
        layer_piece(layer),
        {name: tuple(prefix + part for part in parts) for name, parts in _LAYER_LINEARS.items()},
    )
    return IntegerLayer(
        attention_norm=loader.vector(prefix + "input_layernorm.weight"),
        mlp_norm=loader.vector(prefix + "post_attention_layernorm.weight"),
        qk_norm=_qk_norm(loader, spec, prefix + "self_attn.") if spec.has_qk_norm else None,
        **linears,
    )


def _qk_norm(loader: _Loader, spec: ModelSpec, prefix: str) -> Tensor:
    query = loader.vector(prefix + "q_norm.weight").expand(spec.num_attention_heads, -1)
    key = loader.vector(prefix + "k_norm.weight").expand(spec.num_key_value_heads, -1)
    return torch.cat((query, key))


def _lm_head(loader: _Loader, spec: ModelSpec) -> QuantizedLinear:
    """A matrix of its own also where it is tied: what is looked up stays float, what is multiplied is integer.

    int8 also beside layers of int4: of a model's weights, the head's errors cost the most.
    """
    return loader.linears(LM_HEAD_PIECE, {"head": (lm_head_name(spec),)})["head"]


class _Loader:
    """Quantizes what a reader reads, through the cache."""

    def __init__(self, reader: TensorReader, model_dir: Path, kind: Kind, device: torch.device) -> None:
        self._reader = reader
        self._model_dir = model_dir
        self._kind = kind
        self._cache = QuantizedCache(model_dir, kind)
        self._device = device

    def of_kind(self, kind: Kind) -> _Loader:
        """Return a loader of another kind for the same reader."""
        return _Loader(self._reader, self._model_dir, kind, self._device)

    def vector(self, name: str) -> Tensor:
        """Norms and biases stay float32."""
        return self._reader.tensor(name, torch.float32).to(self._device)

    def linears(self, file_name: str, parts: dict[str, tuple[str, ...]]) -> dict[str, QuantizedLinear]:
        """Several linears that share a file of the cache; each is its parts' rows one below the other."""
        held = self._cache.load(file_name)
        if held is None or held.keys() != parts.keys():
            held = {name: self._quantize(names, is_paired=name == "gate_up") for name, names in parts.items()}
            self._cache.save(file_name, held)
        else:
            self._reader.skip(*(name for names in parts.values() for part in names for name in self._names(part)))
        return {name: _to_device(linear, self._device) for name, linear in held.items()}

    def _quantize(self, parts: tuple[str, ...], *, is_paired: bool) -> QuantizedLinear:
        """The parts one below the other; paired, a tile of the one, then a tile of the other."""
        shapes = [self._reader.shape(f"{part}.weight") for part in parts]
        has_bias = any(self._reader.has(f"{part}.bias") for part in parts)
        heights = [padded(shape[0], TILE) if is_paired else shape[0] for shape in shapes]
        linear = empty_linear(self._kind, sum(heights), shapes[0][1], has_bias=has_bias)
        for index, (part, shape) in enumerate(zip(parts, shapes, strict=True)):
            rows = torch.arange(shape[0])
            rows = rows + rows // TILE * TILE + index * TILE if is_paired else rows + sum(heights[:index])
            start = 0
            for block in self._reader.row_blocks(f"{part}.weight"):
                quantize_rows(linear, rows[start : start + block.shape[0]], block)
                start += block.shape[0]
            if linear.bias is not None and self._reader.has(f"{part}.bias"):
                linear.bias[rows] = self._reader.tensor(f"{part}.bias", torch.float32)
        return linear

    def _names(self, part: str) -> list[str]:
        return [name for name in (f"{part}.weight", f"{part}.bias") if self._reader.has(name)]


def _to_device(linear: QuantizedLinear, device: torch.device) -> QuantizedLinear:
    return linear if device.type == "cpu" else linear.to(device)
