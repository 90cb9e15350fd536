from __future__ import annotations

from dataclasses import replace

import pytest

from exo_lite.domain.footprint import ShardBytes
from exo_lite.domain.ids import ModelId
from exo_lite.domain.load_options import LoadOptions
from exo_lite.domain.model_spec import DTYPE_BYTES, DType, ModelSpec, Quantization
from exo_lite.domain.shard import Shard
from tests.bench.shapes import spec_of
from tests.planned import shard_bytes

SMALL = ModelSpec(
    model_type="llama",
    num_hidden_layers=3,
    hidden_size=128,
    intermediate_size=200,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=16,
    vocab_size=500,
    max_position_embeddings=64,
)
LLAMA_3_8B = spec_of("8b")
BFLOAT16 = LoadOptions("bfloat16")
QUANTIZED = [(128, 128), (128, 64), (2 * 208, 128), (128, 224)]
"""(outputs, inputs) of qkv, o, gate and up, down, whole tiles of 16 outputs and whole groups of 32 inputs."""


def bytes_of(spec: ModelSpec, start_layer: int, end_layer: int, options: LoadOptions) -> ShardBytes:
    return shard_bytes(spec, Shard(ModelId("m"), start_layer, end_layer, spec.n_layers), options)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_a_whole_model_takes_its_parameters(dtype: DType) -> None:
    whole = bytes_of(LLAMA_3_8B, 0, 31, LoadOptions(dtype))
    assert whole.weight_bytes == LLAMA_3_8B.num_parameters * DTYPE_BYTES[dtype] == 8_030_261_248 * DTYPE_BYTES[dtype]


@pytest.mark.parametrize("split", range(1, 32))
def test_shards_of_an_untied_model_add_up_to_the_whole(split: int) -> None:
    whole = bytes_of(LLAMA_3_8B, 0, 31, BFLOAT16)
    first, last = bytes_of(LLAMA_3_8B, 0, split - 1, BFLOAT16), bytes_of(LLAMA_3_8B, split, 31, BFLOAT16)
    assert first.weight_bytes + last.weight_bytes == whole.weight_bytes
    assert first.kv_cache_bytes + last.kv_cache_bytes == whole.kv_cache_bytes


def test_tied_weights_count_where_they_are_held() -> None:
    tied = replace(SMALL, tie_word_embeddings=True)
    options = LoadOptions("float16")
    embedding = 500 * 128 * 2
    parts = bytes_of(tied, 0, 1, options), bytes_of(tied, 2, 2, options)
    assert bytes_of(tied, 0, 2, options).weight_bytes == tied.num_parameters * 2
    assert sum(part.weight_bytes for part in parts) == tied.num_parameters * 2 + embedding


@pytest.mark.parametrize("quant", ["int8", "int4"])
def test_a_quantized_tied_head_is_a_matrix_of_its_own(quant: Quantization) -> None:
    tied = replace(SMALL, tie_word_embeddings=True)
    options = LoadOptions("bfloat16", quant)
    assert bytes_of(tied, 0, 2, options).weight_bytes == bytes_of(SMALL, 0, 2, options).weight_bytes


def test_int8_takes_a_byte_per_element_and_a_scale_per_output_channel() -> None:
    options = LoadOptions("bfloat16", "int8")
    layer = sum(outputs * (inputs + 4) for outputs, inputs in QUANTIZED) + 2 * 128 * 4
    assert bytes_of(SMALL, 1, 1, options).weight_bytes == layer
    assert bytes_of(SMALL, 0, 0, options).weight_bytes == layer + 500 * 128 * 2
    assert bytes_of(SMALL, 2, 2, options).weight_bytes == layer + 128 * 4 + 512 * (128 + 4)


def test_int4_takes_half_a_byte_and_a_step_and_minimum_per_group_of_32_but_in_the_head() -> None:
    options = LoadOptions("bfloat16", "int4")
    groups = {64: 2, 128: 4, 224: 7}
    layer = sum(outputs * (inputs // 2 + 2 * groups[inputs] + 4) for outputs, inputs in QUANTIZED) + 2 * 128 * 4
    assert bytes_of(SMALL, 1, 1, options).weight_bytes == layer
    assert bytes_of(SMALL, 2, 2, options).weight_bytes == layer + 128 * 4 + 512 * (128 + 4)


def test_norms_and_biases_are_float32_beside_integers() -> None:
    biased = replace(SMALL, attention_bias=True, attention_output_bias=True, mlp_bias=True, has_qk_norm=True)
    options = LoadOptions("bfloat16", "int8")
    extra = bytes_of(biased, 1, 1, options).weight_bytes - bytes_of(SMALL, 1, 1, options).weight_bytes
    assert extra == 4 * ((64 + 2 * 32) + 128 + (2 * 208 + 128) + (64 + 32))


def test_the_kv_cache_holds_every_slot_at_full_context() -> None:
    options = LoadOptions("bfloat16", "int4", context_length=4096, num_slots=3)
    assert bytes_of(LLAMA_3_8B, 4, 7, options).kv_cache_bytes == 2 * 4 * 1024 * 4096 * 3 * 2


def test_working_space_holds_a_chunk_its_scores_and_the_logits() -> None:
    options = LoadOptions("bfloat16", context_length=64, num_slots=2)
    per_token = 2 * 128 + 2 * 64 + 2 * 32 + 3 * 200
    middle = 4 * ((128 + 8) * per_token + 4 * 128 * 64)
    assert bytes_of(SMALL, 1, 1, options).working_bytes == middle
    assert bytes_of(SMALL, 0, 0, options).working_bytes == middle
    assert bytes_of(SMALL, 2, 2, options).working_bytes == middle + 4 * 8 * 500


def test_memory_is_the_sum_of_its_parts() -> None:
    taken = bytes_of(LLAMA_3_8B, 0, 9, BFLOAT16)
    assert taken.memory_bytes == taken.weight_bytes + taken.kv_cache_bytes + taken.working_bytes
