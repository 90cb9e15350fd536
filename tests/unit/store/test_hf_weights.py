"""Weight files and what is said about them: indexes that are wrong, heads that are not the embedding, quantizers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from transformers import LlamaForCausalLM

from exo_lite.checkpoint.shard_entries import shard_entries
from exo_lite.domain.errors import InvalidModel, UnsupportedModel
from exo_lite.domain.ids import ModelId
from exo_lite.domain.shard import Shard
from exo_lite.domain.step import SequenceChunk
from exo_lite.engine.torch_c.kv_cache import KVCache
from exo_lite.engine.torch_c.weights import load_shard
from exo_lite.store.model_store import ModelStore
from exo_lite.store.stored_model import StoredModel
from tests.unit.store.tiny_models import SPEC, Arrays, split_in_two

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
FIRST, SECOND = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
EMBEDDING, LM_HEAD = "model.embed_tokens.weight", "lm_head.weight"


def quiet(num_written: int, num_bytes: int) -> None:
    pass


def change_config(folder: Path, **values: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | values), encoding="utf-8")


def loaded(model: StoredModel) -> Arrays:
    """The tensors that a worker would read, from where it would look for them."""
    entries = shard_entries(model.path, model.spec, Shard(ModelId("tiny"), 0, SPEC.n_layers - 1, SPEC.n_layers))
    tensors: Arrays = {}
    for name, entry in entries.items():
        with safe_open(entry.path, framework="numpy") as file:
            tensors[name] = file.get_tensor(name)
    return tensors


@pytest.fixture
def weight_map(hf_folder: Path) -> dict[str, str]:
    """Of the folder's weights, now in two files."""
    split_in_two(hf_folder)
    found: dict[str, str] = json.loads((hf_folder / INDEX).read_text(encoding="utf-8"))["weight_map"]
    return found


def check_import(store: ModelStore, folder: Path, weight_map: dict[str, str], tensors: Arrays) -> None:
    (folder / INDEX).write_text(json.dumps({"weight_map": weight_map}), encoding="utf-8")
    model = store.import_path(folder, "tiny", quiet)
    found = loaded(model)
    assert found.keys() == tensors.keys()
    assert all(np.array_equal(found[name], tensors[name]) for name in tensors)
    assert model.weight_bytes == 4 * SPEC.num_parameters


def test_an_index_that_lacks_an_entry(
    store: ModelStore, hf_folder: Path, weight_map: dict[str, str], tensors: Arrays
) -> None:
    del weight_map["model.norm.weight"]
    check_import(store, hf_folder, weight_map, tensors)


def test_an_index_that_lacks_a_whole_file(
    store: ModelStore, hf_folder: Path, weight_map: dict[str, str], tensors: Arrays
) -> None:
    check_import(store, hf_folder, {name: file for name, file in weight_map.items() if file == FIRST}, tensors)


def test_an_index_with_one_entry_too_many(
    store: ModelStore, hf_folder: Path, weight_map: dict[str, str], tensors: Arrays
) -> None:
    check_import(store, hf_folder, {**weight_map, "extra": FIRST}, tensors)


def test_an_index_that_names_a_tensor_in_another_file(
    store: ModelStore, hf_folder: Path, weight_map: dict[str, str], tensors: Arrays
) -> None:
    other = {FIRST: SECOND, SECOND: FIRST}
    check_import(store, hf_folder, {name: other[file] for name, file in weight_map.items()}, tensors)


def test_an_index_that_names_a_file_which_nothing_needs(
    store: ModelStore, hf_folder: Path, weight_map: dict[str, str], tensors: Arrays
) -> None:
    check_import(store, hf_folder, {**weight_map, "extra": "model-00003-of-00002.safetensors"}, tensors)


def test_a_tensor_in_two_files_is_read_where_the_index_says(
    store: ModelStore, hf_folder: Path, weight_map: dict[str, str], tensors: Arrays
) -> None:
    second = load_file(hf_folder / SECOND)
    save_file(second | {EMBEDDING: np.zeros_like(tensors[EMBEDDING])}, hf_folder / SECOND)
    check_import(store, hf_folder, weight_map, tensors)


def test_a_tensor_in_two_files_of_which_the_index_names_neither(
    store: ModelStore, hf_folder: Path, weight_map: dict[str, str], tensors: Arrays
) -> None:
    save_file(load_file(hf_folder / SECOND) | {EMBEDDING: tensors[EMBEDDING]}, hf_folder / SECOND)
    del weight_map[EMBEDDING]
    with pytest.raises(InvalidModel, match=f"{EMBEDDING} stands in {FIRST} and in {SECOND}"):
        check_import(store, hf_folder, weight_map, tensors)


@pytest.mark.parametrize("is_split", [False, True])
def test_a_head_beside_a_tied_embedding_is_used_where_it_differs(
    store: ModelStore, hf_folder: Path, tensors: Arrays, is_split: bool
) -> None:
    """As transformers does (huggingface/transformers#42612)."""
    if is_split:
        split_in_two(hf_folder)
    lm_head = tensors[EMBEDDING] * np.float32(2)
    file = hf_folder / (SECOND if is_split else WEIGHTS)
    save_file(load_file(file) | {LM_HEAD: lm_head}, file)
    notes: list[str] = []
    model = store.import_path(hf_folder, "tiny", quiet, notes.append)
    assert not model.spec.tie_word_embeddings
    assert np.array_equal(loaded(model)[LM_HEAD], lm_head)
    assert model.weight_bytes == 4 * model.spec.num_parameters == 4 * (SPEC.num_parameters + lm_head.size)
    assert "the weights hold another one: that one is used" in notes[0]


def test_a_head_beside_a_tied_embedding_that_is_its_copy_stays_tied(
    store: ModelStore, hf_folder: Path, tensors: Arrays
) -> None:
    save_file(tensors | {LM_HEAD: tensors[EMBEDDING].copy()}, hf_folder / WEIGHTS)
    notes: list[str] = []
    model = store.import_path(hf_folder, "tiny", quiet, notes.append)
    assert model.spec == SPEC
    assert model.weight_bytes == 4 * SPEC.num_parameters
    assert notes == []


def test_the_same_head_is_used_as_in_transformers(store: ModelStore, hf_folder: Path, tensors: Arrays) -> None:
    save_file(tensors | {LM_HEAD: tensors[EMBEDDING][::-1].copy()}, hf_folder / WEIGHTS, {"format": "pt"})
    model = store.import_path(hf_folder, "tiny", quiet)
    reference = LlamaForCausalLM.from_pretrained(hf_folder, dtype=torch.float32)
    with torch.inference_mode():
        expected = reference(torch.tensor([[3, 5, 7]])).logits[0]
    whole = Shard(ModelId("tiny"), 0, SPEC.n_layers - 1, SPEC.n_layers)
    shard = load_shard(model.path, model.spec, whole, dtype="float32", device="cpu", on_progress=lambda fraction: None)
    cache = KVCache(model.spec, SPEC.n_layers, 1, 8, shard.dtype, shard.device)
    hidden = shard.forward(torch.tensor([3, 5, 7]), [SequenceChunk(0, 0, 3)], cache)
    torch.testing.assert_close(shard.logits(hidden), expected, rtol=1e-4, atol=1e-4)


def test_a_head_of_another_shape_than_the_tied_embedding_is_refused(
    store: ModelStore, hf_folder: Path, tensors: Arrays
) -> None:
    save_file(tensors | {LM_HEAD: tensors[EMBEDDING][1:].copy()}, hf_folder / WEIGHTS)
    with pytest.raises(InvalidModel, match=r"lm_head\.weight has the shape"):
        store.import_path(hf_folder, "tiny", quiet)


@pytest.mark.parametrize(
    ("config", "method"),
    [
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, "gptq, 4 bits"),
        ({"quantization_config": {"quant_method": "awq", "bits": 4}}, "awq, 4 bits"),
        ({"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}}, "bitsandbytes, 4 bits"),
        ({"quantization_config": {"load_in_8bit": True}}, "bitsandbytes, 8 bits"),
        ({"quantization_config": {"quant_method": "fp8"}}, "fp8"),
        ({"quantization_config": {"quant_method": "mxfp4"}}, "mxfp4"),
        ({"quantization_config": {"quant_method": "compressed-tensors", "format": "pack-quantized"}}, "pack-quantized"),
        ({"compression_config": {"format": "int-quantized"}}, "compressed-tensors, int-quantized"),
        ({"quantization_config": {"quant_method": "gguf"}}, "gguf"),
        ({"quantization": {"group_size": 64, "bits": 4}}, "mlx, 4 bits"),
        ({"quantization_config": {"group_size": 64, "bits": 8}}, "a method that it does not name, 8 bits"),
        ({"quantization_config": [1]}, "a method that it does not name"),
        ({"quantization_config": {"quant_method": {"a": 1}, "bits": "many"}}, "a method that it does not name"),
    ],
)
def test_a_quantized_checkpoint_is_refused_by_its_method(
    store: ModelStore, hf_folder: Path, config: dict[str, object], method: str
) -> None:
    change_config(hf_folder, **config)
    with pytest.raises(UnsupportedModel, match=rf"quantized with .*{method}.*original.*--quant int8 or int4"):
        store.import_path(hf_folder, "tiny", quiet)


@pytest.mark.parametrize(
    ("name", "method"),
    [("quantize_config.json", "GPTQ"), ("quant_config.json", "AWQ"), ("hf_quant_config.json", "ModelOpt")],
)
def test_a_quantizers_own_file_names_the_method(store: ModelStore, hf_folder: Path, name: str, method: str) -> None:
    (hf_folder / name).write_text("{}", encoding="utf-8")
    with pytest.raises(UnsupportedModel, match=f"quantized with {method} .*--quant int8 or int4"):
        store.import_path(hf_folder, "tiny", quiet)


@pytest.mark.parametrize(
    ("name", "method"),
    [
        ("qweight", "GPTQ or AWQ"),
        ("weight.absmax", "bitsandbytes"),
        ("weight_scale_inv", "fp8"),
        ("weight_packed", "compressed-tensors"),
        ("biases", "mlx"),
    ],
)
def test_tensors_of_a_quantizer_name_the_method(
    store: ModelStore, hf_folder: Path, tensors: Arrays, name: str, method: str
) -> None:
    extra = {f"model.layers.0.mlp.up_proj.{name}": np.ones((2, 2), np.float32)}
    save_file(tensors | extra, hf_folder / WEIGHTS)
    with pytest.raises(UnsupportedModel, match=f"which quantizing with {method} leaves.*--quant int8 or int4"):
        store.import_path(hf_folder, "tiny", quiet)
