"""A GGUF file's tensors as one safetensors file, written a few rows at a time."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt

from exo_lite.checkpoint.safetensors_file import TensorForm, header_bytes
from exo_lite.checkpoint.tensor_checks import MAX_NAME_CHARS, check_tensors
from exo_lite.checkpoint.tensor_names import Shape, all_tensors
from exo_lite.checkpoint.weight_index import SINGLE_FILE
from exo_lite.domain.errors import InvalidModel, UnsupportedModel
from exo_lite.domain.model_spec import DTYPE_BYTES, DType, ModelSpec
from exo_lite.store.gguf.file import GGUFFile, GGUFTensor, gguf_faults
from exo_lite.store.gguf.spec import ROPE_FACTORS
from exo_lite.store.source import SourceFile

CHUNK_ELEMENTS = 4 << 20
"""Dequantized at once: 16 MiB of float32, and a few times that while it is converted."""

_OUTER_NAMES = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
_LAYER_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_LAYER_TENSOR = re.compile(r"blk\.(0|[1-9][0-9]{0,5})\.([a-z_]+)\.(weight|bias)")
"""A layer has one spelling: `blk.01` beside `blk.1` would make one of the two vanish."""
_ROTATED = re.compile(r"\.self_attn\.[qk]_proj\.(weight|bias)$")

Floats = npt.NDArray[np.float32]


def safetensors_file(file: GGUFFile, spec: ModelSpec) -> SourceFile:
    """Check names, shapes and types now; the values are read when the file is written. Raises InvalidModel."""
    tensors = _renamed(file)
    check_tensors({one: tensor.shape for one, tensor in tensors.items()}, spec, where=file.name)
    _refuse_unknown_types(file)
    shapes = all_tensors(spec)
    header = header_bytes(TensorForm(one, spec.dtype, shape) for one, shape in shapes.items())

    def chunks() -> Iterator[bytes]:
        yield header
        for tensor_name in shapes:
            with gguf_faults(file.name):
                yield from _tensor_bytes(tensor_name, tensors[tensor_name], spec)

    return SourceFile(SINGLE_FILE, len(header) + weight_bytes(spec), chunks)


def weight_bytes(spec: ModelSpec) -> int:
    return sum(math.prod(shape) for shape in all_tensors(spec).values()) * DTYPE_BYTES[spec.dtype]


def to_bytes(values: Floats, dtype: DType) -> bytes:
    """Little-endian, rounded to the nearest, ties to even. Raises ValueError for what the type cannot hold."""
    match dtype:
        case "float32":
            stored: npt.NDArray[Any] = values.astype("<f4", copy=False)
            is_finite = np.isfinite(stored)
        case "float16":
            with np.errstate(over="ignore"):
                stored = values.astype("<f2")
            is_finite = np.isfinite(stored)
        case "bfloat16":
            stored = _bfloat16_bits(values)
            is_finite = (stored & 0x7F80) != 0x7F80
    if not is_finite.all():
        raise ValueError(f"a weight is infinite, not a number or too large for {dtype}")
    return stored.tobytes()


def _bfloat16_bits(values: Floats) -> npt.NDArray[np.uint16]:
    """numpy has no bfloat16: the upper half of a float32, rounded by its lower half."""
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    is_special = (bits & 0x7F800000) == 0x7F800000  # adding could turn these into numbers
    rounded = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
    return np.where(is_special, bits >> np.uint32(16), rounded).astype("<u2")


def half_split(rows: Floats, head_dim: int) -> Floats:
    """Undo the order that GGUF gives to Llama's Q and K: pairs to be rotated stand side by side there.

    rows: [heads * head_dim, columns] or [heads * head_dim]; Hugging Face has the first halves of all pairs, then the
    second ones.
    """
    pairs = rows.reshape(-1, head_dim // 2, 2, *rows.shape[1:])
    return np.ascontiguousarray(pairs.swapaxes(1, 2)).reshape(rows.shape)


def _tensor_bytes(name: str, tensor: GGUFTensor, spec: ModelSpec) -> Iterator[bytes]:
    is_interleaved = spec.model_type == "llama" and _ROTATED.search(name) is not None
    for start, end in _row_ranges(tensor.shape, spec.head_dim):
        values = (
            gguf.quants.dequantize(tensor.data[start:end], tensor.type) if len(tensor.shape) > 1 else _vector(tensor)
        )
        yield to_bytes(half_split(values, spec.head_dim) if is_interleaved else values, spec.dtype)


def _vector(tensor: GGUFTensor) -> Floats:
    values: Floats = gguf.quants.dequantize(tensor.data, tensor.type)
    return values


def _row_ranges(shape: Shape, head_dim: int) -> Iterator[tuple[int, int]]:
    """Ranges of whole heads that hold about CHUNK_ELEMENTS; a vector is one range."""
    if len(shape) == 1:
        yield 0, shape[0]
        return
    num_rows = max(1, CHUNK_ELEMENTS // (shape[1] * head_dim)) * head_dim
    for start in range(0, shape[0], num_rows):
        yield start, min(start + num_rows, shape[0])


def _renamed(file: GGUFFile) -> dict[str, GGUFTensor]:
    return {_hf_name(name, file.name): tensor for name, tensor in file.tensors.items() if name != ROPE_FACTORS}


def _hf_name(name: str, where: str) -> str:
    if name in _OUTER_NAMES:
        return _OUTER_NAMES[name]
    match = _LAYER_TENSOR.fullmatch(name)
    if match is None or match[2] not in _LAYER_NAMES:
        raise UnsupportedModel(
            f"{where}: tensor {name[:MAX_NAME_CHARS]} has no part in the models that this version runs"
        )
    return f"model.layers.{int(match[1])}.{_LAYER_NAMES[match[2]]}.{match[3]}"


def _refuse_unknown_types(file: GGUFFile) -> None:
    for tensor in {tensor.type: tensor for tensor in file.tensors.values()}.values():
        if tensor.data.size == 0:
            raise InvalidModel(f"{file.name}: tensor {tensor.name} is empty")
        with gguf_faults(f"{file.name}: tensor {tensor.name}"):
            gguf.quants.dequantize(tensor.data[:1] if len(tensor.shape) > 1 else tensor.data, tensor.type)
