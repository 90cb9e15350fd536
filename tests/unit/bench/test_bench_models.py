from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open

from exo_lite.checkpoint.tensor_names import Shape, all_tensors
from exo_lite.store.model_store import ModelStore
from exo_lite.tokenizer.tokenizer_files import load_tokenizer
from tests.bench.make_model import make_checkpoint, make_gguf, split
from tests.bench.shapes import TINY, RandomWeights, as_float32, shape_names, spec_of, vocabulary


def tensors_of(folder: Path) -> dict[str, np.ndarray]:
    found: dict[str, np.ndarray] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            found |= {name: file.get_tensor(name).float().numpy() for name in file.keys()}  # noqa: SIM118
    return found


def test_a_checkpoint_is_a_stored_model(tmp_path: Path) -> None:
    folder = make_checkpoint("tiny", tmp_path)
    stored = ModelStore(tmp_path).get("bench-tiny")
    assert (stored.path, stored.spec) == (folder, TINY)
    assert stored.weight_bytes == 2 * TINY.num_parameters
    assert tensors_of(folder).keys() == all_tensors(TINY).keys()


def test_each_token_has_a_text_of_its_own(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(make_checkpoint("tiny", tmp_path))
    assert tokenizer.vocab_size == TINY.vocab_size
    assert tokenizer.decode([257, 258]) == " 0 1"
    assert tokenizer.stop_token_ids == {vocabulary(TINY.vocab_size).eos_token_id}
    assert tokenizer.encode("ab") == [256]


def test_several_files_hold_the_same_as_one(tmp_path: Path) -> None:
    one = make_checkpoint("tiny", tmp_path / "one")
    several = make_checkpoint("tiny", tmp_path / "several", file_bytes=500_000)
    index = json.loads((several / "model.safetensors.index.json").read_bytes())
    assert len(set(index["weight_map"].values())) > 2
    assert ModelStore(tmp_path / "several").get("bench-tiny").spec == TINY
    expected, found = tensors_of(one), tensors_of(several)
    assert found.keys() == expected.keys()
    assert all(np.array_equal(found[name], expected[name]) for name in expected)


def test_the_gguf_file_holds_the_same_model(tmp_path: Path) -> None:
    folder = make_checkpoint("tiny", tmp_path)
    path = make_gguf("tiny", "bf16", tmp_path)
    imported = ModelStore(tmp_path).import_path(path, "from-gguf", lambda num_written, num_bytes: None)
    assert imported.spec == TINY
    expected, found = tensors_of(folder), tensors_of(imported.path)
    assert found.keys() == expected.keys()
    assert all(np.array_equal(found[name], expected[name]) for name in expected)
    assert load_tokenizer(imported.path).decode([257, 258]) == " 0 1"


@pytest.mark.parametrize(("kind", "tolerance"), [("q8_0", 0.01), ("q4_0", 0.15)])
def test_quantized_gguf_files_hold_nearly_the_same(tmp_path: Path, kind: str, tolerance: float) -> None:
    path = make_gguf("tiny", kind, tmp_path)
    imported = ModelStore(tmp_path).import_path(path, "from-gguf", lambda num_written, num_bytes: None)
    name = "model.layers.1.self_attn.q_proj.weight"
    found = tensors_of(imported.path)[name]
    expected = as_float32(RandomWeights().tensor(name, found.shape))
    assert np.abs(found - expected).max() < tolerance * np.abs(expected).max()


def test_what_is_there_already_stays(tmp_path: Path) -> None:
    make_checkpoint("tiny", tmp_path)
    written = (tmp_path / "bench-tiny/manifest.json").stat().st_mtime_ns
    make_checkpoint("tiny", tmp_path)
    assert (tmp_path / "bench-tiny/manifest.json").stat().st_mtime_ns == written


def test_the_shapes_are_those_of_the_models() -> None:
    sizes = {shape: spec_of(shape).num_parameters for shape in shape_names()}
    assert sizes["1b"] == 1_235_814_400
    assert sizes["8b"] == 8_030_261_248


def test_weights_have_the_spread_of_a_models_and_no_two_rows_alike() -> None:
    matrix = as_float32(RandomWeights().tensor("a", (2048, 4096)))
    assert matrix.std() == pytest.approx(0.02, rel=0.01)
    assert len(np.unique(matrix[:, :4], axis=0)) == 2048


def test_a_file_ends_with_the_tensor_that_fills_it() -> None:
    tensors: dict[str, Shape] = {name: (10, 5) for name in "abcde"}
    assert [list(part) for part in split(tensors, 150)] == [["a", "b"], ["c", "d"], ["e"]]
    assert [list(part) for part in split(tensors, 499)] == [["a", "b", "c", "d", "e"]]
