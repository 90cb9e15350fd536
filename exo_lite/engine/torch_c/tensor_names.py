"""The names and shapes of a checkpoint's tensors, as Hugging Face writes them."""

from __future__ import annotations

import re
from collections.abc import Iterable

from exo_lite.domain.model_spec import ModelSpec
from exo_lite.domain.shard import Shard

Shape = tuple[int, ...]

EMBEDDING = "model.embed_tokens"
NORM = "model.norm"
HEAD = "lm_head"

_LAYER = re.compile(r"model\.layers\.(\d+)\.")
_IGNORED = "rotary_emb.inv_freq"  # old checkpoints carry the frequencies, which follow from the config


def layer_prefix(layer: int) -> str:
    return f"model.layers.{layer}."


def head_name(spec: ModelSpec) -> str:
    """Of the tensor that scores tokens: a tied model's embedding does."""
    return EMBEDDING if spec.tie_word_embeddings else HEAD


def expected_tensors(spec: ModelSpec, shard: Shard) -> dict[str, Shape]:
    """Every tensor that a shard needs, in the order of loading."""
    outer = (spec.vocab_size, spec.hidden_size)
    tensors: dict[str, Shape] = {f"{EMBEDDING}.weight": outer} if shard.is_first else {}
    for layer in shard.layers:
        tensors |= {layer_prefix(layer) + name: shape for name, shape in _layer_tensors(spec).items()}
    if shard.is_last:
        tensors |= {f"{NORM}.weight": (spec.hidden_size,), f"{head_name(spec)}.weight": outer}
    return tensors


def unexpected_tensors(names: Iterable[str], expected: Iterable[str], shard: Shard) -> list[str]:
    """Tensors of the shard's own layers that nothing asks for: a bias left out would give wrong answers in silence."""
    own = (name for name in names if (match := _LAYER.match(name)) and int(match[1]) in shard.layers)
    return sorted(set(own) - set(expected) - {name for name in names if name.endswith(_IGNORED)})


def _layer_tensors(spec: ModelSpec) -> dict[str, Shape]:
    tensors: dict[str, Shape] = {"input_layernorm.weight": (spec.hidden_size,)}
    for name, rows, has_bias in _attention_inputs(spec):
        tensors |= _linear(f"self_attn.{name}", rows, spec.hidden_size, has_bias)
    if spec.has_qk_norm:
        tensors |= {"self_attn.q_norm.weight": (spec.head_dim,), "self_attn.k_norm.weight": (spec.head_dim,)}
    tensors |= _linear("self_attn.o_proj", spec.hidden_size, spec.q_size, spec.attention_output_bias)
    tensors["post_attention_layernorm.weight"] = (spec.hidden_size,)
    tensors |= _linear("mlp.gate_proj", spec.intermediate_size, spec.hidden_size, spec.mlp_bias)
    tensors |= _linear("mlp.up_proj", spec.intermediate_size, spec.hidden_size, spec.mlp_bias)
    return tensors | _linear("mlp.down_proj", spec.hidden_size, spec.intermediate_size, spec.mlp_bias)


def _attention_inputs(spec: ModelSpec) -> tuple[tuple[str, int, bool], ...]:
    return (
        ("q_proj", spec.q_size, spec.attention_bias),
        ("k_proj", spec.kv_size, spec.attention_bias),
        ("v_proj", spec.kv_size, spec.attention_bias),
    )


def _linear(name: str, rows: int, columns: int, has_bias: bool) -> dict[str, Shape]:
    bias = {f"{name}.bias": (rows,)} if has_bias else {}
    return {f"{name}.weight": (rows, columns), **bias}
