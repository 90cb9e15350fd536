from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from exo_lite.domain.errors import InvalidModel
from exo_lite.domain.model_spec import DType, RopeScaling
from exo_lite.engine.torch_c.rope import inverse_frequencies
from exo_lite.store.gguf import tensors
from exo_lite.store.gguf.file import open_gguf_file
from exo_lite.store.gguf.spec import llama3_factors, spec_of
from exo_lite.store.gguf.tensors import half_split, to_bytes
from exo_lite.store.model_store import ModelStore
from tests.unit.store.tiny_models import SPEC, GGUFRecipe, interleaved

FINITE = st.floats(-(2.0**127), 2.0**127, width=32)


@given(arrays.arrays(np.float32, st.integers(1, 30), elements=FINITE))
def test_bfloat16_is_rounded_as_torch_does(values: np.ndarray) -> None:
    expected = torch.from_numpy(values.copy()).to(torch.bfloat16).view(torch.uint8).numpy().tobytes()
    assert to_bytes(values, "bfloat16") == expected


def test_a_tie_goes_to_the_even_neighbour() -> None:
    ties = np.array([0x3F808000, 0x3F818000], np.uint32).view(np.float32)
    assert to_bytes(ties, "bfloat16") == np.array([0x3F80, 0x3F82], "<u2").tobytes()


@pytest.mark.parametrize(
    ("value", "dtype"),
    [(np.nan, "float32"), (np.inf, "bfloat16"), (-np.nan, "bfloat16"), (3.4e38, "bfloat16"), (1e6, "float16")],
)
def test_what_a_type_cannot_hold_is_refused(value: float, dtype: DType) -> None:
    with pytest.raises(ValueError, match=f"infinite, not a number or too large for {dtype}"):
        to_bytes(np.array([value], np.float32), dtype)


@given(num_heads=st.integers(1, 4), half=st.integers(1, 5), columns=st.integers(1, 3))
def test_rows_come_back_in_the_order_of_hugging_face(num_heads: int, half: int, columns: int) -> None:
    head_dim = 2 * half
    rows = np.arange(num_heads * head_dim * columns, dtype=np.float32).reshape(-1, columns)
    assert np.array_equal(half_split(interleaved(rows, num_heads), head_dim), rows)
    assert np.array_equal(half_split(interleaved(rows[:, 0], num_heads), head_dim), rows[:, 0])


def test_the_size_of_a_chunk_changes_nothing(
    store: ModelStore, tmp_path: Path, recipe: GGUFRecipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = recipe.write(tmp_path / "tiny.gguf")
    whole = store.import_path(path, "whole", lambda *numbers: None)
    monkeypatch.setattr(tensors, "CHUNK_ELEMENTS", 1)
    assert store.import_path(path, "pieces", lambda *numbers: None).fingerprint == whole.fingerprint


@pytest.mark.parametrize("factor", [8.0, 32.0])
def test_llama_3_scaling_is_known_by_its_factors(tmp_path: Path, recipe: GGUFRecipe, factor: float) -> None:
    scaling = RopeScaling("llama3", factor)
    factors = llama3_factors(scaling, 500000.0, SPEC.head_dim)
    recipe.metadata["llama.rope.freq_base"] = 500000.0
    recipe.tensors["rope_freqs.weight"] = factors.astype(np.float32)
    assert spec_of(open_gguf_file(recipe.write(tmp_path / "tiny.gguf"))).rope_scaling == scaling


def test_the_factors_are_those_that_the_model_divides_by() -> None:
    spec = replace(SPEC, head_dim=128, rope_theta=500000.0, rope_scaling=RopeScaling("llama3", 8.0))
    plain = inverse_frequencies(replace(spec, rope_scaling=RopeScaling()), 64)
    factors = llama3_factors(spec.rope_scaling, spec.rope_theta, spec.head_dim)
    np.testing.assert_allclose(plain.numpy() / factors, inverse_frequencies(spec, 64).numpy(), rtol=1e-5)


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        ({}, RopeScaling()),
        ({"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 4.0}, RopeScaling("linear", 4.0)),
        ({"llama.rope.scale_linear": 2.0}, RopeScaling("linear", 2.0)),
        ({"llama.rope.scaling.type": "none"}, RopeScaling()),
    ],
)
def test_linear_scaling_is_read(
    tmp_path: Path, recipe: GGUFRecipe, metadata: dict[str, object], expected: RopeScaling
) -> None:
    recipe.metadata |= metadata
    spec = spec_of(open_gguf_file(recipe.write(tmp_path / "tiny.gguf")))
    assert spec.rope_scaling == expected
    assert spec.context_length == 64  # as the file says: it has the stretched length there, as llama.cpp reads it


@pytest.mark.parametrize("factor", [0.0, -1.0, 0.5])
def test_a_factor_that_stretches_nothing_is_refused(tmp_path: Path, recipe: GGUFRecipe, factor: float) -> None:
    recipe.metadata |= {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": factor}
    with pytest.raises(InvalidModel, match=r"rope\.scaling\.factor is .*, expected 1 or more"):
        spec_of(open_gguf_file(recipe.write(tmp_path / "tiny.gguf")))


def test_the_context_ends_where_a_window_would_slide(tmp_path: Path, recipe: GGUFRecipe) -> None:
    recipe.metadata["llama.attention.sliding_window"] = 16
    assert spec_of(open_gguf_file(recipe.write(tmp_path / "tiny.gguf"))).max_position_embeddings == 16


def test_numbers_are_those_that_were_meant(tmp_path: Path, recipe: GGUFRecipe) -> None:
    recipe.metadata |= {"llama.attention.layer_norm_rms_epsilon": 1e-6, "llama.rope.freq_base": 500000.0}
    spec = spec_of(open_gguf_file(recipe.write(tmp_path / "tiny.gguf")))
    assert (spec.rms_norm_eps, spec.rope_theta) == (1e-6, 500000.0)
