from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import load_file

from exo_lite.domain.errors import ExoLiteError, InvalidModel, UnsupportedModel
from exo_lite.domain.model_spec import ModelSpec
from exo_lite.store.model_store import ModelStore
from exo_lite.tokenizer.template_files import load_chat_template
from exo_lite.tokenizer.tokenizer_files import load_tokenizer
from tests.unit.store.tiny_models import SPEC, GGUFRecipe, random_tensors, recipe_for

QUANTIZATION = gguf.GGMLQuantizationType


def quiet(num_written: int, num_bytes: int) -> None:
    pass


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "tiny.gguf"


@pytest.mark.parametrize(
    "spec",
    [
        SPEC,
        replace(SPEC, tie_word_embeddings=False),
        replace(SPEC, num_key_value_heads=4),
        replace(SPEC, model_type="qwen2", attention_bias=True),
        replace(SPEC, model_type="qwen3", has_qk_norm=True),
    ],
    ids=["tied", "untied", "no-gqa", "qwen2", "qwen3"],
)
def test_a_file_becomes_the_checkpoint_that_it_was_made_of(store: ModelStore, path: Path, spec: ModelSpec) -> None:
    recipe = recipe_for(spec)
    model = store.import_path(recipe.write(path), "tiny", quiet)
    expected = random_tensors(spec)
    loaded = load_file(model.path / "model.safetensors")
    assert model.spec == spec
    assert model.weight_bytes == 4 * spec.num_parameters
    assert loaded.keys() == expected.keys()
    assert all(np.array_equal(loaded[name], expected[name]) for name in expected)


def test_half_precision_stays_what_it_is(store: ModelStore, path: Path, recipe: GGUFRecipe) -> None:
    recipe.tensors = {
        name: values.astype(np.float16) if values.ndim > 1 else values for name, values in recipe.tensors.items()
    }
    model = store.import_path(recipe.write(path), "tiny", quiet)
    loaded = load_file(model.path / "model.safetensors")
    assert model.spec.dtype == "float16"
    assert all(np.array_equal(loaded[name], values.astype(np.float16)) for name, values in random_tensors(SPEC).items())


@pytest.mark.parametrize("quantization", [QUANTIZATION.BF16, QUANTIZATION.Q8_0, QUANTIZATION.Q4_1])
def test_quantized_values_are_stored_as_bfloat16(
    store: ModelStore, path: Path, recipe: GGUFRecipe, quantization: gguf.GGMLQuantizationType
) -> None:
    recipe.quantization = quantization
    model = store.import_path(recipe.write(path), "tiny", quiet)
    assert model.spec.dtype == "bfloat16"
    assert model.weight_bytes == 2 * SPEC.num_parameters
    with safe_open(model.path / "model.safetensors", framework="pt") as file:
        down = file.get_tensor("model.layers.1.mlp.down_proj.weight").float().numpy()
    expected = random_tensors(SPEC)["model.layers.1.mlp.down_proj.weight"]
    step = {QUANTIZATION.BF16: 0.01, QUANTIZATION.Q8_0: 0.03, QUANTIZATION.Q4_1: 0.3}[quantization]
    assert np.abs(down - expected).max() < step


def test_the_vocabulary_comes_along(store: ModelStore, path: Path, recipe: GGUFRecipe) -> None:
    model = store.import_path(recipe.write(path), "tiny", quiet)
    tokenizer = load_tokenizer(model.path)
    assert tokenizer.decode(tokenizer.encode("ab a")) == "ab a"
    assert (tokenizer.bos_token, tokenizer.eos_token) == ("<s>", "</s>")
    assert tokenizer.stop_token_ids == {2}
    messages = [{"role": "user", "content": "hi"}]
    assert load_chat_template(model.path, tokenizer.special).render(messages) == "hi"


def test_the_same_file_has_the_same_fingerprint(store: ModelStore, path: Path, recipe: GGUFRecipe) -> None:
    recipe.write(path)
    assert store.import_path(path, "a", quiet).fingerprint == store.import_path(path, "b", quiet).fingerprint


def test_progress_ends_at_the_whole(store: ModelStore, path: Path, recipe: GGUFRecipe) -> None:
    calls: list[tuple[int, int]] = []
    store.import_path(recipe.write(path), "tiny", lambda *numbers: calls.append(numbers))
    assert calls == sorted(calls)
    assert calls[-1][0] == calls[-1][1]


Change = Callable[[GGUFRecipe], object]


def with_metadata(key: str, value: object) -> Change:
    return lambda recipe: recipe.metadata.update({key: value})


def with_tensor(name: str, *shape: int, value: float = 1.0) -> Change:
    return lambda recipe: recipe.tensors.update({name: np.full(shape, value, np.float32)})


def as_architecture(name: str) -> Change:
    return lambda recipe: setattr(recipe, "architecture", name)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (as_architecture("gemma"), UnsupportedModel, "architecture gemma; llama, qwen2, qwen3"),
        (with_metadata("split.count", 3), InvalidModel, "one of 3 parts, and its name does not say which"),
        (with_metadata("llama.expert_count", 8), UnsupportedModel, "mixture of experts"),
        (with_metadata("llama.rope.dimension_count", 4), UnsupportedModel, "rotates 4 of a head's 8"),
        (with_metadata("llama.rope.scaling.type", "yarn"), UnsupportedModel, "by yarn"),
        (with_metadata("llama.attention.value_length", 4), UnsupportedModel, "values of 4"),
        (with_metadata("llama.block_count", None), InvalidModel, r"lacks llama\.block_count"),
        (with_metadata("llama.block_count", 0), InvalidModel, "num_hidden_layers"),
        (with_metadata("llama.block_count", 2**30), InvalidModel, "layers that the config names"),
        (with_metadata("llama.block_count", "two"), InvalidModel, r"block_count must be a whole number, not 'two'"),
        (with_metadata("llama.attention.head_count", 0), InvalidModel, "head_count is 0"),
        (with_metadata("llama.attention.head_count_kv", 3), InvalidModel, "num_key_value_heads"),
        (with_metadata("llama.attention.layer_norm_rms_epsilon", float("nan")), InvalidModel, "must be a number"),
        (with_tensor("blk.0.attn_q.weight", 16, 32), InvalidModel, r"q_proj\.weight has the shape \[16, 32\]"),
        (with_tensor("blk.0.ffn_gate_inp.weight", 8, 32), UnsupportedModel, "ffn_gate_inp"),
        (with_tensor("blk.0.ffn_up.bias", 64), UnsupportedModel, r"up_proj\.bias"),
        (with_tensor("blk.1.ffn_norm.weight", 32, value=float("nan")), InvalidModel, "infinite, not a number"),
        (with_tensor("rope_freqs.weight", 4, value=3.0), UnsupportedModel, "not those of Llama 3.1"),
        (lambda recipe: recipe.tensors.pop("blk.1.ffn_up.weight"), InvalidModel, r"up_proj\.weight is missing"),
        (lambda recipe: recipe.tensors.pop("token_embd.weight"), InvalidModel, r"token_embd\.weight is missing"),
        (
            lambda recipe: recipe.tensors.update({"output_norm.weight": np.ones(32, np.int32)}),
            UnsupportedModel,
            "I32.*another quantization",
        ),
    ],
)
def test_an_unsound_file_is_refused_and_nothing_stays(
    store: ModelStore,
    path: Path,
    recipe: GGUFRecipe,
    nothing_left: Callable[[], bool],
    change: Change,
    error: type[ExoLiteError],
    message: str,
) -> None:
    change(recipe)
    recipe.write(path)
    with pytest.raises(error, match=message) as raised:
        store.import_path(path, "tiny", quiet)
    assert type(raised.value) is error
    assert nothing_left()


@pytest.mark.parametrize("content", [b"", b"GGUF", b"PK\x03\x04" + bytes(60), b"GGUF" + b"\xff" * 60])
def test_what_is_no_gguf_file_is_refused(store: ModelStore, path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(InvalidModel, match="truncated, damaged or no GGUF file"):
        store.import_path(path, "tiny", quiet)
    assert not store.models_dir.exists()


def test_a_lying_array_length_ends_at_the_end_of_the_file(store: ModelStore, path: Path, recipe: GGUFRecipe) -> None:
    recipe.metadata = {"lie": [1, 2, 3], **recipe.metadata}
    content = recipe.write(path).read_bytes()
    position = content.index(b"lie") + 3 + 4 + 4  # behind the name, the kind and the kind of its elements
    path.write_bytes(content[:position] + (2**60).to_bytes(8, "little") + content[position + 8 :])
    with pytest.raises(InvalidModel, match="truncated, damaged or no GGUF file"):
        store.import_path(path, "tiny", quiet)


@pytest.fixture(scope="module")
def small_content(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return recipe_for(SPEC).write(tmp_path_factory.mktemp("gguf") / "tiny.gguf").read_bytes()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_truncated_file_is_refused(store: ModelStore, path: Path, small_content: bytes, data: st.DataObject) -> None:
    path.write_bytes(small_content[: data.draw(st.integers(0, len(small_content) - 33))])
    with pytest.raises(InvalidModel):
        store.import_path(path, "tiny", quiet)
    assert not store.models_dir.exists()


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_damaged_file_never_does_more_than_refuse(
    store: ModelStore, path: Path, small_content: bytes, data: st.DataObject
) -> None:
    damaged = bytearray(small_content)
    for position in data.draw(st.lists(st.integers(0, 3500), min_size=1, max_size=4)):
        damaged[position] = data.draw(st.integers(0, 255))
    path.write_bytes(damaged)
    try:
        store.import_path(path, "tiny", quiet)
        store.remove("tiny")
    except InvalidModel:
        pass
    assert not store.models_dir.exists() or list(store.models_dir.iterdir()) == []
