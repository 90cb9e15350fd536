"""The same random weights as a .gguf file, in the order of heads and with the metadata that llama.cpp expects."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt

from exo_lite.checkpoint.tensor_names import Shape, all_tensors
from exo_lite.domain.model_spec import ModelSpec
from exo_lite.store.gguf.spec import ROPE_FACTORS, llama3_factors
from tests.bench.shapes import MERGE, Bits, RandomWeights, as_float32, vocabulary

GGUF_TYPES = {
    "bf16": (gguf.GGMLQuantizationType.BF16, gguf.LlamaFileType.MOSTLY_BF16),
    "q8_0": (gguf.GGMLQuantizationType.Q8_0, gguf.LlamaFileType.MOSTLY_Q8_0),
    "q4_0": (gguf.GGMLQuantizationType.Q4_0, gguf.LlamaFileType.MOSTLY_Q4_0),
}
"""The type of every matrix, embedding and head included, and what the file says of itself."""


def write_gguf(path: Path, spec: ModelSpec, kind: str) -> None:
    """Matrices in the type of `kind`, norms in float32."""
    weight_type, file_type = GGUF_TYPES[kind]
    weights, shapes = RandomWeights(), all_tensors(spec)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, spec.n_layers)
    writer = gguf.GGUFWriter(path, "llama")
    _describe(writer, spec, file_type)
    factors = _rope_factors(spec)
    if factors is not None:
        writer.add_tensor_info(ROPE_FACTORS, factors.shape, factors.dtype, factors.nbytes)
    for name, shape in shapes.items():
        _announce(writer, str(names.get_name(name, try_suffixes=(".weight",))), shape, weight_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    if factors is not None:
        writer.write_tensor_data(factors)
    for name, shape in shapes.items():
        bits = _in_file_order(name, weights.tensor(name, shape), spec)
        writer.write_tensor_data(gguf.quants.quantize(as_float32(bits), _type_of(shape, weight_type)))
    writer.close()


def _type_of(shape: Shape, weight_type: Any) -> Any:
    return weight_type if len(shape) > 1 else gguf.GGMLQuantizationType.F32


def _announce(writer: Any, name: str, shape: Shape, weight_type: Any) -> None:
    kind = _type_of(shape, weight_type)
    if kind == gguf.GGMLQuantizationType.F32:
        writer.add_tensor_info(name, shape, np.dtype(np.float32), 4 * shape[0])
        return
    byte_shape = gguf.quant_shape_to_byte_shape(shape, kind)
    writer.add_tensor_info(name, byte_shape, np.dtype(np.uint8), int(np.prod(byte_shape)), raw_dtype=kind)


def _in_file_order(name: str, rows: Bits, spec: ModelSpec) -> Bits:
    """llama.cpp has the two halves that a rotation pairs side by side, Hugging Face one half behind the other."""
    if not name.endswith(("q_proj.weight", "k_proj.weight")):
        return rows
    halves = rows.reshape(-1, 2, spec.head_dim // 2, rows.shape[1])
    return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(rows.shape)


def _rope_factors(spec: ModelSpec) -> npt.NDArray[np.float32] | None:
    if spec.rope_scaling.rope_type != "llama3":
        return None
    return llama3_factors(spec.rope_scaling, spec.rope_theta, spec.head_dim).astype(np.float32)


def _describe(writer: Any, spec: ModelSpec, file_type: Any) -> None:
    writer.add_context_length(spec.max_position_embeddings)
    writer.add_embedding_length(spec.hidden_size)
    writer.add_block_count(spec.n_layers)
    writer.add_feed_forward_length(spec.intermediate_size)
    writer.add_head_count(spec.num_attention_heads)
    writer.add_head_count_kv(spec.num_key_value_heads)
    writer.add_key_length(spec.head_dim)
    writer.add_value_length(spec.head_dim)
    writer.add_rope_dimension_count(spec.head_dim)
    writer.add_rope_freq_base(spec.rope_theta)
    writer.add_layer_norm_rms_eps(spec.rms_norm_eps)
    writer.add_vocab_size(spec.vocab_size)
    writer.add_file_type(file_type)
    _describe_tokenizer(writer, spec)


def _describe_tokenizer(writer: Any, spec: ModelSpec) -> None:
    words = vocabulary(spec.vocab_size)
    is_special = {words.bos_token_id, words.eos_token_id}
    kinds = [
        gguf.TokenType.CONTROL if index in is_special else gguf.TokenType.NORMAL for index in range(spec.vocab_size)
    ]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("llama-bpe")
    writer.add_token_list(list(words.tokens))
    writer.add_token_types(kinds)
    writer.add_token_merges([" ".join(MERGE)])
    writer.add_bos_token_id(words.bos_token_id)
    writer.add_eos_token_id(words.eos_token_id)
    writer.add_add_bos_token(False)
