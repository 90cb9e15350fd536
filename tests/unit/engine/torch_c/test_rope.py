"""Rotary tables against transformers' own, and the rotation against its definition."""

import math
from dataclasses import replace

import pytest
import torch
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from exo_lite.domain.errors import UnsupportedModel
from exo_lite.domain.model_spec import ModelSpec, RopeScaling
from exo_lite.engine.torch_c.rope import apply_rope, inverse_frequencies, rope_tables

CPU = torch.device("cpu")
SPEC = ModelSpec(
    model_type="llama",
    num_hidden_layers=1,
    hidden_size=64,
    intermediate_size=64,
    num_attention_heads=4,
    num_key_value_heads=4,
    head_dim=16,
    vocab_size=8,
    max_position_embeddings=32,
    rope_theta=10000.0,
)
SCALINGS = [
    RopeScaling(),
    RopeScaling("linear", factor=4.0),
    RopeScaling("dynamic", factor=2.0),
    RopeScaling("llama3", 8.0, 1.0, 4.0, 16),
    RopeScaling("llama3", 32.0, 1.0, 4.0, 8),
]


def reference(spec, make_config):
    scaling = spec.rope_scaling
    rope = {"rope_theta": spec.rope_theta, **{name: getattr(scaling, name) for name in RopeScaling.__slots__}}
    if scaling.rope_type != "llama3":
        rope = {name: rope[name] for name in ("rope_theta", "rope_type", "factor")}
    return LlamaRotaryEmbedding(make_config(head_dim=spec.head_dim, max_position_embeddings=32, rope_parameters=rope))


@pytest.mark.parametrize("scaling", SCALINGS, ids=lambda scaling: f"{scaling.rope_type}-{scaling.factor}")
def test_tables_equal_the_reference(scaling, config_maker):
    spec = replace(SPEC, rope_scaling=scaling)
    cos, sin = reference(spec, config_maker)(torch.zeros(1), torch.arange(32)[None])
    tables = rope_tables(spec, 32, torch.float32, CPU)
    torch.testing.assert_close(tables.cos, cos[0, :, :8], atol=1e-6, rtol=0)
    torch.testing.assert_close(tables.sin, sin[0, :, :8], atol=1e-6, rtol=0)


def test_dynamic_scaling_beyond_the_trained_length_is_that_of_the_whole_context(config_maker):
    spec = replace(SPEC, rope_scaling=RopeScaling("dynamic", factor=2.0))
    cos, sin = reference(spec, config_maker)(torch.zeros(1), torch.arange(80)[None])
    tables = rope_tables(spec, 80, torch.float32, CPU)
    torch.testing.assert_close(tables.cos, cos[0, :, :8], atol=1e-5, rtol=0)
    torch.testing.assert_close(tables.sin, sin[0, :, :8], atol=1e-5, rtol=0)


def test_dynamic_scaling_changes_nothing_within_the_trained_length():
    spec = replace(SPEC, rope_scaling=RopeScaling("dynamic", factor=2.0))
    assert torch.equal(inverse_frequencies(spec, 32), inverse_frequencies(SPEC, 32))
    assert not torch.equal(inverse_frequencies(spec, 33), inverse_frequencies(SPEC, 33))


def test_each_pair_turns_by_its_angle():
    tables = rope_tables(SPEC, 32, torch.float32, CPU)
    x = torch.randn(3, 2, 16)
    turned = apply_rope(x, *tables.at(torch.tensor([0, 5, 31])))
    as_complex = torch.complex(x[..., :8], x[..., 8:]) * torch.complex(tables.cos, tables.sin)[[0, 5, 31]].unsqueeze(1)
    torch.testing.assert_close(turned, torch.cat((as_complex.real, as_complex.imag), dim=-1))
    assert torch.equal(turned[0], x[0])


def test_the_type_is_kept():
    cos, sin = rope_tables(SPEC, 4, torch.bfloat16, CPU).at(torch.tensor([1]))
    assert apply_rope(torch.randn(1, 2, 16, dtype=torch.bfloat16), cos, sin).dtype == torch.bfloat16


def test_a_head_without_two_halves_is_refused():
    with pytest.raises(UnsupportedModel, match="head_dim is 15"):
        rope_tables(replace(SPEC, head_dim=15), 4, torch.float32, CPU)


@pytest.mark.parametrize("scaling", SCALINGS, ids=lambda scaling: f"{scaling.rope_type}-{scaling.factor}")
def test_exact_tables_are_those_of_the_functions_themselves(scaling):
    """Correctly rounded, so that no processor has others: from Python's own floats."""
    spec = replace(SPEC, rope_scaling=scaling)
    tables = rope_tables(spec, 32, torch.float32, CPU, working_dtype=torch.float64)
    frequencies = inverse_frequencies(spec, 32, torch.float64).float()
    angles = torch.arange(32, dtype=torch.float32)[:, None] * frequencies
    for table, function in ((tables.cos, math.cos), (tables.sin, math.sin)):
        expected = torch.tensor([[function(angle) for angle in row] for row in angles.tolist()])
        assert torch.equal(table, expected)
