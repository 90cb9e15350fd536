"""A GGUF file's metadata as a ModelSpec."""

from __future__ import annotations

from typing import cast

import gguf
import numpy as np
import numpy.typing as npt

from exo_lite.domain.errors import InvalidModel, UnsupportedModel
from exo_lite.domain.llama3_rope import llama3_stretch
from exo_lite.domain.model_spec import DType, ModelSpec, ModelType, RopeScaling
from exo_lite.store.gguf.file import GGUFFile

ROPE_FACTORS = "rope_freqs.weight"

_ARCHITECTURES: dict[str, ModelType] = {"llama": "llama", "qwen2": "qwen2", "qwen3": "qwen3"}
_WEIGHT_TYPES = gguf.GGMLQuantizationType


def spec_of(file: GGUFFile) -> ModelSpec:
    """Raises InvalidModel, and UnsupportedModel naming what this version does not run."""
    architecture = file.text("general.architecture")
    if architecture not in _ARCHITECTURES:
        raise UnsupportedModel(
            f"{file.name} is of the architecture {architecture[:40]}; {', '.join(_ARCHITECTURES)} can be imported"
        )
    _refuse_variants(file, architecture)
    num_heads = file.count(f"{architecture}.attention.head_count")
    hidden_size = file.count(f"{architecture}.embedding_length")
    if num_heads == 0:
        raise InvalidModel(f"{file.name}: {architecture}.attention.head_count is 0")
    head_dim = file.count(f"{architecture}.attention.key_length", hidden_size // num_heads)
    rope_theta = file.number(f"{architecture}.rope.freq_base", 10000.0)
    rope_scaling = _rope_scaling(file, architecture, rope_theta, head_dim)
    return ModelSpec(
        model_type=_ARCHITECTURES[architecture],
        num_hidden_layers=file.count(f"{architecture}.block_count"),
        hidden_size=hidden_size,
        intermediate_size=file.count(f"{architecture}.feed_forward_length"),
        num_attention_heads=num_heads,
        num_key_value_heads=file.count(f"{architecture}.attention.head_count_kv", num_heads),
        head_dim=_whole_head(file, architecture, head_dim),
        vocab_size=_vocab_size(file),
        max_position_embeddings=_trained_length(file, architecture, rope_scaling),
        rms_norm_eps=file.number(f"{architecture}.attention.layer_norm_rms_epsilon"),
        rope_theta=rope_theta,
        rope_scaling=rope_scaling,
        tie_word_embeddings="output.weight" not in file.tensors,
        attention_bias="blk.0.attn_q.bias" in file.tensors,
        attention_output_bias="blk.0.attn_output.bias" in file.tensors,
        mlp_bias="blk.0.ffn_gate.bias" in file.tensors,
        has_qk_norm="blk.0.attn_q_norm.weight" in file.tensors,
        dtype=_dtype(file),
    )


def _refuse_variants(file: GGUFFile, architecture: str) -> None:
    """Settings of models that share the architecture's name and compute something else."""
    if file.count(f"{architecture}.expert_count", 0):
        raise UnsupportedModel(f"{file.name} is a mixture of experts, which this version does not run")
    key_length = file.count(f"{architecture}.attention.key_length", 0)
    value_length = file.count(f"{architecture}.attention.value_length", key_length)
    if key_length != value_length:
        raise UnsupportedModel(f"{file.name}: keys of {key_length} and values of {value_length} are not supported")


def _whole_head(file: GGUFFile, architecture: str, head_dim: int) -> int:
    rotated = file.count(f"{architecture}.rope.dimension_count", head_dim)
    if rotated != head_dim:
        raise UnsupportedModel(f"{file.name} rotates {rotated} of a head's {head_dim} dimensions; only all can be run")
    return head_dim


def _trained_length(file: GGUFFile, architecture: str, scaling: RopeScaling) -> int:
    """Return the context length before scaling, such that the file's context is the length after it.

    Within a sliding window, attention is what it is without one: a context of that length is exact.
    """
    whole = file.count(f"{architecture}.context_length")
    context_length = min(whole, file.count(f"{architecture}.attention.sliding_window", 0) or whole)
    return int(context_length / scaling.factor) if scaling.rope_type == "linear" else context_length


def _vocab_size(file: GGUFFile) -> int:
    embedding = file.tensors.get("token_embd.weight")
    if embedding is None or len(embedding.shape) != 2:
        raise InvalidModel(f"{file.name}: tensor token_embd.weight is missing or no matrix")
    return embedding.shape[0]


def _dtype(file: GGUFFile) -> DType:
    """The type to store: quantized values have no more than bfloat16 can tell; norms follow the matrices."""
    types = {tensor.type for tensor in file.tensors.values() if len(tensor.shape) > 1}
    if types <= {_WEIGHT_TYPES.F32}:
        return "float32"
    return "float16" if types <= {_WEIGHT_TYPES.F32, _WEIGHT_TYPES.F16} else "bfloat16"


def _rope_scaling(file: GGUFFile, architecture: str, rope_theta: float, head_dim: int) -> RopeScaling:
    kind = file.text(f"{architecture}.rope.scaling.type", "none")
    if ROPE_FACTORS in file.tensors:
        return _llama3_scaling(file, rope_theta, head_dim)
    if kind == "none":
        factor = _factor(file, f"{architecture}.rope.scale_linear", 1.0)  # the key of older files
        return RopeScaling() if factor == 1.0 else RopeScaling("linear", factor)
    if kind == "linear":
        return RopeScaling("linear", _factor(file, f"{architecture}.rope.scaling.factor"))
    raise UnsupportedModel(f"{file.name} stretches positions by {kind[:40]}, which this version does not run")


def _factor(file: GGUFFile, key: str, default: float | None = None) -> float:
    factor = file.number(key, default)
    if factor < 1:
        raise InvalidModel(f"{file.name}: {key} is {factor}, expected 1 or more")
    return factor


def _llama3_scaling(file: GGUFFile, rope_theta: float, head_dim: int) -> RopeScaling:
    """The file has one divisor per frequency and not the rule behind them: find the rule, or refuse."""
    factors = cast("npt.NDArray[np.float32]", file.tensors[ROPE_FACTORS].data).astype(np.float64)
    if factors.shape == (head_dim // 2,) and np.isfinite(factors).all():
        if np.all(factors == 1.0):
            return RopeScaling()
        scaling = RopeScaling("llama3", float(factors.max()))
        if np.allclose(factors, llama3_factors(scaling, rope_theta, head_dim), rtol=1e-4):
            return scaling
    raise UnsupportedModel(
        f"{file.name}: its {ROPE_FACTORS} are not those of Llama 3.1 to 3.3; nothing else can be run"
    )


def llama3_factors(scaling: RopeScaling, rope_theta: float, head_dim: int) -> npt.NDArray[np.float64]:
    """Divisor of each of the head_dim / 2 frequencies under Llama 3.1's rule: long waves stretched, short ones kept."""
    wavelengths = 2 * np.pi * rope_theta ** (np.arange(0, head_dim, 2) / head_dim)
    return 1.0 / llama3_stretch(scaling.original_max_position_embeddings / wavelengths, scaling)
