"""Hugging Face's config.json to ModelSpec and back."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from typing import get_args

from exo_lite.catalog.fields import Fields
from exo_lite.catalog.quantization_config import refuse_quantized
from exo_lite.catalog.rope_config import rope_from_config, rope_to_config
from exo_lite.domain.errors import InvalidModel, UnsupportedModel
from exo_lite.domain.model_spec import DType, ModelSpec, ModelType, RopeScaling

_MODEL_TYPES: dict[str, ModelType] = {
    "LlamaForCausalLM": "llama",
    "MistralForCausalLM": "mistral",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen3ForCausalLM": "qwen3",
}
_ARCHITECTURES: dict[str, str] = {model_type: name for name, model_type in _MODEL_TYPES.items()}
_DTYPES: dict[str, DType] = {dtype: dtype for dtype in get_args(DType)}

# What Hugging Face takes where a file says nothing.
_DEFAULT_CONTEXT_LENGTHS: dict[ModelType, int] = {"llama": 2048, "mistral": 131072, "qwen2": 32768, "qwen3": 32768}
_DEFAULT_SLIDING_WINDOW = 4096
_DEFAULT_RMS_NORM_EPS = 1e-6
_QWEN3_HEAD_DIM = 128


def spec_from_config(config: Mapping[str, object]) -> ModelSpec:
    """The dimensions of a Llama, Mistral, Qwen2 or Qwen3 model, with Hugging Face's defaults.

    A sliding window is not computed: the context ends where the window would begin to slide. Raises InvalidModel for
    what is missing, of the wrong type or contradictory, UnsupportedModel for what this version does not run.
    """
    fields = Fields(config)
    model_type = _model_type(fields)
    _check_kind(fields)
    num_heads = fields.whole_number("num_attention_heads")
    rope_theta, rope_scaling = rope_from_config(fields)
    has_bias = model_type in ("llama", "qwen3") and fields.flag("attention_bias")
    return ModelSpec(
        model_type=model_type,
        num_hidden_layers=fields.whole_number("num_hidden_layers"),
        hidden_size=fields.whole_number("hidden_size"),
        intermediate_size=fields.whole_number("intermediate_size"),
        num_attention_heads=num_heads,
        num_key_value_heads=_num_key_value_heads(fields, num_heads),
        head_dim=_head_dim(fields, model_type, num_heads),
        vocab_size=fields.whole_number("vocab_size"),
        max_position_embeddings=_trained_length(fields, model_type, rope_scaling),
        rms_norm_eps=_rms_norm_eps(fields),
        rope_theta=rope_theta,
        rope_scaling=rope_scaling,
        tie_word_embeddings=fields.flag("tie_word_embeddings"),
        attention_bias=model_type == "qwen2" or has_bias,
        attention_output_bias=has_bias,
        mlp_bias=model_type == "llama" and fields.flag("mlp_bias"),
        has_qk_norm=model_type == "qwen3",
        dtype=_dtype(fields),
    )


def spec_to_config(spec: ModelSpec) -> dict[str, object]:
    """The config.json that reads back as `spec`, for Hugging Face's readers too.

    Raises UnsupportedModel where none does: a combination of biases and norms that its model type does not have.
    """
    config: dict[str, object] = {
        "architectures": [_ARCHITECTURES[spec.model_type]],
        "model_type": spec.model_type,
        "num_hidden_layers": spec.num_hidden_layers,
        "hidden_size": spec.hidden_size,
        "intermediate_size": spec.intermediate_size,
        "num_attention_heads": spec.num_attention_heads,
        "num_key_value_heads": spec.num_key_value_heads,
        "head_dim": spec.head_dim,
        "vocab_size": spec.vocab_size,
        "max_position_embeddings": spec.max_position_embeddings,
        "hidden_act": "silu",
        "rms_norm_eps": spec.rms_norm_eps,
        "rope_theta": spec.rope_theta,
        "rope_scaling": rope_to_config(spec.rope_scaling),
        "tie_word_embeddings": spec.tie_word_embeddings,
        "torch_dtype": spec.dtype,
        **_switches_to_config(spec),
    }
    if spec_from_config(config) != spec:
        raise UnsupportedModel(
            f"no {spec.model_type} config.json describes a model with these biases and norms: {spec}"
        )
    return config


def _switches_to_config(spec: ModelSpec) -> dict[str, object]:
    match spec.model_type:
        case "llama":
            return {"attention_bias": spec.attention_bias, "mlp_bias": spec.mlp_bias}
        case "mistral":
            return {"sliding_window": None}
        case "qwen2":
            return {"use_sliding_window": False}
        case "qwen3":
            return {"use_sliding_window": False, "attention_bias": spec.attention_bias}


def _model_type(fields: Fields) -> ModelType:
    named = fields.text("model_type")
    architectures = fields.texts("architectures")
    supported = f"supported are {', '.join(_MODEL_TYPES)}"
    for architecture in architectures:
        if architecture not in _MODEL_TYPES:
            raise UnsupportedModel(f"architecture {architecture!r} is not supported: {supported}")
    if named is not None and named not in _ARCHITECTURES:
        raise UnsupportedModel(f"model type {named!r} is not supported: {supported}")
    found = {_MODEL_TYPES[architecture] for architecture in architectures}
    found |= {_MODEL_TYPES[_ARCHITECTURES[named]]} if named is not None else set()
    if not found:
        fields.reject("model_type", f"one of {', '.join(_ARCHITECTURES)}")
    if len(found) > 1:
        raise InvalidModel(
            f"config.json: model_type {named!r} and architectures {reprlib.repr(architectures)} contradict each other"
        )
    return found.pop()


def _check_kind(fields: Fields) -> None:
    """Raise UnsupportedModel for what would make the arithmetic of a plain decoder wrong."""
    activation = fields.text("hidden_act")
    if activation not in (None, "silu"):
        raise UnsupportedModel(f"hidden_act {activation!r} is not supported, only 'silu'")
    refuse_quantized(fields)
    for key in ("num_local_experts", "num_experts"):
        if fields.get(key) is not None:
            raise UnsupportedModel(f"{key}: mixtures of experts are not supported")


def _num_key_value_heads(fields: Fields, num_heads: int) -> int:
    num_kv_heads = fields.whole_number("num_key_value_heads", default=num_heads)
    if num_heads % num_kv_heads:
        fields.reject("num_key_value_heads", f"a divisor of num_attention_heads, {num_heads}")
    return num_kv_heads


def _head_dim(fields: Fields, model_type: ModelType, num_heads: int) -> int:
    if fields.get("head_dim") is not None or model_type == "qwen3":
        head_dim = fields.whole_number("head_dim", default=_QWEN3_HEAD_DIM)
    else:
        head_dim, rest = divmod(fields.whole_number("hidden_size"), num_heads)
        if rest:
            fields.reject("hidden_size", f"a multiple of num_attention_heads, {num_heads}, or a head_dim")
    if head_dim % 2:
        raise InvalidModel(f"config.json: head_dim is {head_dim}, expected an even number: RoPE rotates pairs")
    return head_dim


def _trained_length(fields: Fields, model_type: ModelType, scaling: RopeScaling) -> int:
    """max_position_embeddings, or less, so that a context stays within a sliding window."""
    length = fields.whole_number("max_position_embeddings", default=_DEFAULT_CONTEXT_LENGTHS[model_type])
    window = _sliding_window(fields, model_type)
    _check_layer_types(fields, has_window=window is not None)
    if window is None:
        return length
    if scaling.rope_type == "dynamic":
        raise UnsupportedModel("a sliding window beside dynamic rope scaling is not supported")
    if scaling.rope_type == "linear" and window < scaling.factor:
        fields.reject("sliding_window", f"no less than rope scaling's factor, {scaling.factor}")
    return min(length, int(window / scaling.factor) if scaling.rope_type == "linear" else window)


def _sliding_window(fields: Fields, model_type: ModelType) -> int | None:
    match model_type:
        case "llama":
            return None
        case "mistral":
            is_off = "sliding_window" in fields.values and fields.get("sliding_window") is None
        case "qwen2" | "qwen3":
            is_off = not fields.flag("use_sliding_window")
    return None if is_off else fields.whole_number("sliding_window", default=_DEFAULT_SLIDING_WINDOW)


def _check_layer_types(fields: Fields, *, has_window: bool) -> None:
    layer_types = fields.texts("layer_types")
    supported = {"full_attention", "sliding_attention"} if has_window else {"full_attention"}
    for layer_type in layer_types:
        if layer_type not in supported:
            raise UnsupportedModel(f"layer_types: {layer_type!r} is not supported, only {sorted(supported)}")
    num_layers = fields.whole_number("num_hidden_layers")
    if layer_types and len(layer_types) != num_layers:
        raise InvalidModel(f"config.json: layer_types names {len(layer_types)} layers, num_hidden_layers {num_layers}")


def _rms_norm_eps(fields: Fields) -> float:
    eps = fields.number("rms_norm_eps", default=_DEFAULT_RMS_NORM_EPS)
    if eps >= 1:
        fields.reject("rms_norm_eps", "less than 1")
    return eps


def _dtype(fields: Fields) -> DType:
    """`dtype`, formerly `torch_dtype`; float32 where neither stands, as in torch."""
    names = {name.removeprefix("torch.") for key in ("dtype", "torch_dtype") if (name := fields.text(key)) is not None}
    for name in sorted(names - _DTYPES.keys()):
        raise UnsupportedModel(f"dtype {name!r} is not supported, only {', '.join(_DTYPES)}")
    if len(names) > 1:
        raise InvalidModel(f"config.json: dtype and torch_dtype contradict each other: {sorted(names)}")
    return _DTYPES[names.pop()] if names else "float32"
