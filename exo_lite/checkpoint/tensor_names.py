"""The names and shapes of a checkpoint's tensors, as Hugging Face writes them."""

from __future__ import annotations

import re
from collections.abc import Iterable

from exo_lite.domain.ids import ModelId
from exo_lite.domain.model_spec import ModelSpec
from exo_lite.domain.shard import Shard

Shape = tuple[int, ...]

EMBEDDING = "model.embed_tokens"
NORM = "model.norm"
LM_HEAD = "lm_head"
EMBEDDING_TENSOR = f"{EMBEDDING}.weight"
NORM_TENSOR = f"{NORM}.weight"
LM_HEAD_TENSOR = f"{LM_HEAD}.weight"

_LAYER = re.compile(r"model\.layers\.(\d+)\.")
_IGNORED = "rotary_emb.inv_freq"  # old checkpoints carry the frequencies, which follow from the config


def layer_prefix(layer: int) -> str:
    return f"model.layers.{layer}."


def lm_head_name(spec: ModelSpec) -> str:
    """Return the name of the matrix that scores tokens: a tied model's embedding does."""
    return EMBEDDING if spec.tie_word_embeddings else LM_HEAD


def expected_tensors(spec: ModelSpec, shard: Shard) -> dict[str, Shape]:
    """Every tensor that a shard needs, in the order of loading."""
    outer = (spec.vocab_size, spec.hidden_size)
    tensors: dict[str, Shape] = {EMBEDDING_TENSOR: outer} if shard.is_first else {}
    for layer in shard.layers:
        tensors |= layer_tensors(spec, layer)
    if shard.is_last:
        tensors |= {NORM_TENSOR: (spec.hidden_size,), f"{lm_head_name(spec)}.weight": outer}
    return tensors


def all_tensors(spec: ModelSpec) -> dict[str, Shape]:
    """Every tensor of a whole model, in the order of its layers."""
    return expected_tensors(spec, Shard(ModelId("all"), 0, spec.n_layers - 1, spec.n_layers))


def layer_tensors(spec: ModelSpec, layer: int) -> dict[str, Shape]:
    """Every tensor of one decoder layer, in the order of loading."""
    return {layer_prefix(layer) + name: shape for name, shape in _layer_tensors(spec).items()}


def unexpected_tensors(names: Iterable[str], expected: Iterable[str], shard: Shard) -> list[str]:
    """Tensors of the shard's own layers that nothing asks for: a bias left out would give wrong answers in silence."""
    own = {name for name in names if (match := _LAYER.match(name)) and int(match[1]) in shard.layers}
    return sorted(name for name in own - set(expected) if not is_ignored(name))


def is_ignored(name: str) -> bool:
    """Say whether a tensor holds nothing that the config does not say."""
    return name.endswith(_IGNORED)


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
