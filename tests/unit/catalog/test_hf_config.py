from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exo_lite.catalog.hf_config import spec_from_config, spec_to_config
from exo_lite.domain.errors import InvalidModel, UnsupportedModel
from exo_lite.domain.model_spec import DType, ModelSpec, ModelType, RopeScaling

Config = dict[str, object]
LLAMA_3_1_SCALING = RopeScaling("llama3", 8.0, 1.0, 4.0, 8192)


def test_a_whole_config_is_read(llama_3_1: Config) -> None:
    spec = spec_from_config(llama_3_1)
    assert spec == ModelSpec(
        model_type="llama",
        num_hidden_layers=32,
        hidden_size=4096,
        intermediate_size=14336,
        num_attention_heads=32,
        num_key_value_heads=8,
        head_dim=128,
        vocab_size=128256,
        max_position_embeddings=131072,
        rms_norm_eps=1e-5,
        rope_theta=500000.0,
        rope_scaling=LLAMA_3_1_SCALING,
        dtype="bfloat16",
    )


def test_what_is_left_out_has_hugging_faces_defaults(least: Config) -> None:
    spec = spec_from_config(least)
    assert (spec.num_key_value_heads, spec.head_dim, spec.max_position_embeddings) == (4, 16, 2048)
    assert (spec.rms_norm_eps, spec.rope_theta, spec.rope_scaling) == (1e-6, 10000.0, RopeScaling())
    assert (spec.tie_word_embeddings, spec.attention_bias, spec.mlp_bias, spec.dtype) == (
        False,
        False,
        False,
        "float32",
    )


def test_null_counts_as_left_out(least: Config) -> None:
    nulls = dict.fromkeys(["num_key_value_heads", "head_dim", "rope_scaling", "rms_norm_eps", "torch_dtype"])
    assert spec_from_config(least | nulls) == spec_from_config(least)


def test_the_newer_spelling_says_the_same(llama_3_1: Config) -> None:
    newer = dict(llama_3_1)
    scaling = newer.pop("rope_scaling")
    assert isinstance(scaling, dict)
    newer["rope_parameters"] = {**scaling, "rope_theta": newer.pop("rope_theta")}
    newer["dtype"] = newer.pop("torch_dtype")
    assert spec_from_config(newer) == spec_from_config(llama_3_1)


def test_a_window_bounds_a_stretched_context(least: Config) -> None:
    mistral = least | {
        "model_type": "mistral",
        "architectures": ["MistralForCausalLM"],
        "max_position_embeddings": 4096,
    }
    linear = mistral | {"rope_scaling": {"type": "linear", "factor": 4.0}}
    assert spec_from_config(linear | {"sliding_window": None}).context_length == 16384
    assert spec_from_config(linear | {"sliding_window": 8192}).context_length == 8192
    with pytest.raises(InvalidModel, match="sliding_window is 2, expected no less than"):
        spec_from_config(linear | {"sliding_window": 2})
    with pytest.raises(UnsupportedModel, match="sliding window beside dynamic"):
        spec_from_config(mistral | {"sliding_window": 64, "rope_scaling": {"type": "dynamic", "factor": 4.0}})


def test_vicunas_long_version_has_all_its_context(least: Config) -> None:
    """lmsys/vicuna-7b-v1.5-16k says 4096 positions and a factor of 4."""
    config = least | {"max_position_embeddings": 4096, "rope_scaling": {"factor": 4.0, "type": "linear"}}
    assert spec_from_config(config).context_length == 16384


@pytest.mark.parametrize("key", ["type", "rope_type"])
@pytest.mark.parametrize("rope_type", ["linear", "dynamic"])
def test_simple_scalings_take_a_factor(least: Config, key: str, rope_type: str) -> None:
    scaling = spec_from_config(least | {"rope_scaling": {key: rope_type, "factor": 4}}).rope_scaling
    assert (scaling.rope_type, scaling.factor) == (rope_type, 4.0)


def test_the_architecture_tells_the_type_where_nothing_else_does(least: Config) -> None:
    del least["model_type"]
    assert spec_from_config(least | {"architectures": ["Qwen3ForCausalLM"]}).model_type == "qwen3"


@pytest.mark.parametrize(
    ("model_type", "has_bias", "expected"),
    [
        ("llama", False, (False, False, False)),
        ("llama", True, (True, True, False)),
        ("mistral", True, (False, False, False)),
        ("qwen2", False, (True, False, False)),
        ("qwen3", False, (False, False, True)),
        ("qwen3", True, (True, True, True)),
    ],
)
def test_biases_and_norms_are_those_of_the_type(
    least: Config, model_type: str, has_bias: bool, expected: tuple[bool, bool, bool]
) -> None:
    spec = spec_from_config(least | {"model_type": model_type, "attention_bias": has_bias})
    assert (spec.attention_bias, spec.attention_output_bias, spec.has_qk_norm) == expected


def test_a_qwen3_head_is_128_wide_where_nothing_is_said(least: Config) -> None:
    assert spec_from_config(least | {"model_type": "qwen3"}).head_dim == 128


@pytest.mark.parametrize(
    ("config", "context_length"),
    [
        ({"model_type": "mistral", "sliding_window": None}, 32768),
        ({"model_type": "mistral", "sliding_window": 65536}, 32768),
        ({"model_type": "mistral", "sliding_window": 1024}, 1024),
        ({"model_type": "mistral"}, 4096),
        ({"model_type": "qwen2", "sliding_window": 1024}, 32768),
        ({"model_type": "qwen2", "sliding_window": 1024, "use_sliding_window": True}, 1024),
        ({"model_type": "qwen3", "use_sliding_window": True}, 4096),
        ({"model_type": "llama", "sliding_window": 1024}, 32768),
    ],
)
def test_the_context_ends_where_a_window_would_slide(least: Config, config: Config, context_length: int) -> None:
    spec = spec_from_config(least | {"max_position_embeddings": 32768} | config)
    assert spec.max_position_embeddings == context_length


def test_sliding_layers_are_full_ones_within_their_window(least: Config) -> None:
    qwen = least | {"model_type": "qwen2", "use_sliding_window": True, "sliding_window": 512}
    layer_types = ["full_attention", "sliding_attention"]
    assert spec_from_config(qwen | {"layer_types": layer_types}).max_position_embeddings == 512


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"model_type": "mixtral"}, "'mixtral'"),
        ({"architectures": ["LlamaForSequenceClassification"]}, "'LlamaForSequenceClassification'"),
        ({"rope_scaling": {"type": "yarn", "factor": 4.0}}, "'yarn'"),
        ({"rope_scaling": {"rope_type": "longrope"}}, "'longrope'"),
        ({"rope_scaling": {"type": "mrope", "rope_type": "default"}}, "'mrope'"),
        ({"rope_parameters": {"full_attention": {"rope_type": "default"}}}, "rope_parameters"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor 0.5"),
        ({"hidden_act": "gelu"}, "'gelu'"),
        ({"quantization_config": {"quant_method": "gptq"}}, "quantization_config"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, "'sliding_attention'"),
        ({"num_local_experts": 8}, "num_local_experts"),
        ({"torch_dtype": "float8_e4m3fn"}, "'float8_e4m3fn'"),
    ],
)
def test_what_is_not_run_is_refused_by_name(least: Config, change: Config, named: str) -> None:
    with pytest.raises(UnsupportedModel, match=named):
        spec_from_config(least | change)


@pytest.mark.parametrize(
    "key", ["hidden_size", "intermediate_size", "num_attention_heads", "num_hidden_layers", "vocab_size", "model_type"]
)
def test_what_must_be_there_is_missed_by_name(least: Config, key: str) -> None:
    del least[key]
    with pytest.raises(InvalidModel, match=f"{key} is missing, expected"):
        spec_from_config(least)


@pytest.mark.parametrize("value", [0, -1, True, 2.0, "64", [64], 2**31, 10**30])
@pytest.mark.parametrize("key", ["hidden_size", "num_hidden_layers", "vocab_size", "max_position_embeddings"])
def test_a_dimension_is_a_whole_number_within_bounds(least: Config, key: str, value: object) -> None:
    with pytest.raises(InvalidModel, match=f"{key} is .*, expected a whole number from 1 to 2147483647"):
        spec_from_config(least | {key: value})


@pytest.mark.parametrize("value", [0, -1e-5, True, float("nan"), float("inf"), "1e-5", 10**400])
@pytest.mark.parametrize("key", ["rms_norm_eps", "rope_theta"])
def test_a_number_is_finite_and_above_0(least: Config, key: str, value: object) -> None:
    with pytest.raises(InvalidModel, match=f"{key} is .*, expected a number above 0"):
        spec_from_config(least | {key: value})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_key_value_heads": 3}, "num_key_value_heads is 3, expected a divisor of num_attention_heads, 4"),
        ({"hidden_size": 66}, "hidden_size is 66, expected a multiple of num_attention_heads, 4"),
        ({"head_dim": 15}, "head_dim is 15, expected an even number"),
        ({"tie_word_embeddings": 1}, "tie_word_embeddings is 1, expected true or false"),
        ({"rms_norm_eps": 2}, "rms_norm_eps is 2, expected less than 1"),
        ({"model_type": 3}, "model_type is 3, expected a text"),
        ({"architectures": "LlamaForCausalLM"}, "architectures is 'LlamaForCausalLM', expected a list of texts"),
        ({"architectures": ["MistralForCausalLM"]}, "model_type 'llama' and architectures .* contradict"),
        ({"dtype": "float16", "torch_dtype": "bfloat16"}, "dtype and torch_dtype contradict"),
        ({"layer_types": ["full_attention"]}, "layer_types names 1 layers, num_hidden_layers 2"),
        ({"rope_scaling": "linear"}, "rope_scaling is 'linear', expected an object"),
        ({"rope_scaling": {"type": "linear"}}, r"rope_scaling\.factor is missing"),
        ({"rope_scaling": {"type": "linear", "factor": 0.5}}, r"rope_scaling\.factor is 0.5, expected 1 or more"),
        ({"rope_scaling": {"type": "linear", "rope_type": "dynamic", "factor": 2}}, "contradict"),
        ({"rope_parameters": {"rope_theta": 1e6}, "rope_theta": 1e4}, "rope_theta has several values"),
        ({"rope_parameters": {"rope_type": "linear", "factor": 2}, "rope_scaling": {"type": "default"}}, "contradict"),
    ],
)
def test_contradictions_are_refused_with_their_values(least: Config, change: Config, message: str) -> None:
    with pytest.raises(InvalidModel, match=message):
        spec_from_config(least | change)


@pytest.mark.parametrize("key", ["factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"])
def test_llama3_scaling_is_complete_or_refused(llama_3_1: Config, key: str) -> None:
    scaling = llama_3_1["rope_scaling"]
    assert isinstance(scaling, dict)
    with pytest.raises(InvalidModel, match=rf"rope_scaling\.{key} is missing"):
        spec_from_config(llama_3_1 | {"rope_scaling": {name: scaling[name] for name in scaling if name != key}})


def test_llama3_frequencies_stand_in_order(llama_3_1: Config) -> None:
    scaling = llama_3_1["rope_scaling"]
    assert isinstance(scaling, dict)
    with pytest.raises(InvalidModel, match=r"low_freq_factor is 4.0, expected less than high_freq_factor, 4.0"):
        spec_from_config(llama_3_1 | {"rope_scaling": scaling | {"low_freq_factor": 4.0}})


def test_a_long_value_is_cut_in_the_message(least: Config) -> None:
    with pytest.raises(InvalidModel) as caught:
        spec_from_config(least | {"vocab_size": "9" * 100_000})
    assert len(str(caught.value)) < 200


def test_a_spec_that_no_config_describes_is_not_written(least: Config) -> None:
    spec = replace(spec_from_config(least), attention_bias=True)
    with pytest.raises(UnsupportedModel, match="attention_bias=True"):
        spec_to_config(spec)


@st.composite
def specs(draw: st.DrawFn) -> ModelSpec:
    model_type = draw(st.sampled_from(get_args(ModelType)))
    num_kv_heads = draw(st.integers(1, 16))
    has_bias = draw(st.booleans()) and model_type in ("llama", "qwen3")
    scaling = draw(
        st.sampled_from([RopeScaling(), RopeScaling("linear", 2.5), RopeScaling("dynamic", 4.0), LLAMA_3_1_SCALING])
    )
    dtype: DType = draw(st.sampled_from(get_args(DType)))
    return ModelSpec(
        model_type=model_type,
        num_hidden_layers=draw(st.integers(1, 200)),
        hidden_size=draw(st.integers(1, 20_000)),
        intermediate_size=draw(st.integers(1, 60_000)),
        num_attention_heads=num_kv_heads * draw(st.integers(1, 16)),
        num_key_value_heads=num_kv_heads,
        head_dim=2 * draw(st.integers(1, 128)),
        vocab_size=draw(st.integers(1, 300_000)),
        max_position_embeddings=draw(st.integers(1, 2**31 - 1)),
        rms_norm_eps=draw(st.floats(1e-12, 0.5)),
        rope_theta=draw(st.floats(1.0, 1e9)),
        rope_scaling=scaling,
        tie_word_embeddings=draw(st.booleans()),
        attention_bias=model_type == "qwen2" or has_bias,
        attention_output_bias=has_bias,
        mlp_bias=model_type == "llama" and draw(st.booleans()),
        has_qk_norm=model_type == "qwen3",
        dtype=dtype,
    )


@given(specs())
def test_what_is_written_reads_back(spec: ModelSpec) -> None:
    assert spec_from_config(spec_to_config(spec)) == spec


VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.lists(st.integers(), max_size=2)
)
KEYS = [
    *["model_type", "architectures", "hidden_size", "num_attention_heads", "num_key_value_heads", "head_dim"],
    *[
        "rope_theta",
        "rope_scaling",
        "rope_parameters",
        "torch_dtype",
        "tie_word_embeddings",
        "layer_types",
        "hidden_act",
    ],
]


@given(st.dictionaries(st.sampled_from(KEYS), VALUES | st.dictionaries(st.text(max_size=5), VALUES, max_size=3)))
def test_nothing_but_a_refusal_comes_of_nonsense(change: Config) -> None:
    sound = {"model_type": "llama", "hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4}
    with suppress(InvalidModel):
        spec = spec_from_config(sound | {"num_hidden_layers": 2, "vocab_size": 100} | change)
        assert spec.num_parameters > 0
