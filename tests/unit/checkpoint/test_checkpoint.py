"""Folders of weights: which files are opened, and what is said of those that are missing, damaged or contradictory."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from exo_lite.checkpoint.checkpoint import Checkpoint
from exo_lite.checkpoint.safetensors_file import TensorEntry
from exo_lite.checkpoint.shard_entries import shard_entries
from exo_lite.checkpoint.tensor_bytes import read_blocks, read_whole
from exo_lite.checkpoint.tied_head import is_same_matrix
from exo_lite.checkpoint.weight_index import INDEX_FILE, SINGLE_FILE
from exo_lite.domain.errors import InvalidModel, InvalidShard
from exo_lite.domain.ids import ModelId
from exo_lite.domain.shard import Shard
from tests.unit.store.tiny_models import SPEC, random_tensors, split_in_two, write_hf_folder

NAME = "model.layers.1.self_attn.k_proj.weight"
SHAPE = (16, 32)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_hf_folder(tmp_path / "tiny", SPEC, random_tensors(SPEC))


@pytest.fixture
def split_folder(folder: Path) -> Path:
    split_in_two(folder)
    return folder


def entries(folder: Path, start_layer: int = 0, end_layer: int = 1) -> dict[str, TensorEntry]:
    return shard_entries(folder, SPEC, Shard(ModelId("tiny"), start_layer, end_layer, SPEC.n_layers))


def content(entry: TensorEntry, block_bytes: int = 64) -> bytes:
    return b"".join(bytes(block) for block in read_blocks(entry, memoryview(bytearray(block_bytes))))


@pytest.mark.parametrize("block_bytes", [1, 60, 64, 1 << 20])
def test_every_tensor_is_read_in_blocks(split_folder: Path, block_bytes: int) -> None:
    for name, values in random_tensors(SPEC).items():
        entry = entries(split_folder)[name]
        assert content(entry, block_bytes) == values.tobytes()
        whole = bytearray(entry.size_bytes)
        read_whole(entry, memoryview(whole))
        assert whole == values.tobytes()


def test_only_the_files_of_the_shard_s_own_tensors_are_opened(split_folder: Path) -> None:
    weight_map = json.loads((split_folder / INDEX_FILE).read_text(encoding="utf-8"))["weight_map"]
    weight_map["model.layers.0.extra.bias"] = "model-00003-of-00002.safetensors"
    (split_folder / INDEX_FILE).write_text(json.dumps({"weight_map": weight_map}), encoding="utf-8")
    assert entries(split_folder, 1, 1)[NAME].shape == SHAPE


def test_a_folder_without_weights(tmp_path: Path) -> None:
    with pytest.raises(InvalidModel, match=rf"{tmp_path}: neither model\.safetensors nor model\.safetensors\.index"):
        Checkpoint(tmp_path)


def test_a_damaged_file_is_named_with_its_folder(folder: Path) -> None:
    (folder / SINGLE_FILE).write_bytes((folder / SINGLE_FILE).read_bytes()[:-1])
    with pytest.raises(
        InvalidModel, match=rf"{folder}/model\.safetensors is truncated or damaged, not a sound safetensors file"
    ):
        Checkpoint(folder)


def test_a_file_that_the_index_names_is_missing(split_folder: Path) -> None:
    (split_folder / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(InvalidModel, match=r"model-00002-of-00002\.safetensors is missing"):
        entries(split_folder)


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ("{", "is not valid JSON"),
        ("[" * 100_000, "is not valid JSON"),
        ("[]", "must hold a JSON object"),
        ("{}", "no weight_map"),
        ('{"weight_map": []}', "no weight_map"),
        (
            '{"weight_map": {"a": "../other/model.safetensors"}}',
            "is not the name of a safetensors file in its own folder",
        ),
        ('{"weight_map": {"a": 3}}', "is not the name of a safetensors file in its own folder"),
        ('{"weight_map": {"a": "config.json"}}', "is not the name of a safetensors file in its own folder"),
    ],
)
def test_a_damaged_index(index: str, message: str, split_folder: Path) -> None:
    (split_folder / INDEX_FILE).write_text(index, encoding="utf-8")
    with pytest.raises(InvalidModel, match=rf"{split_folder}: model\.safetensors\.index\.json.*{message}"):
        Checkpoint(split_folder)


def test_an_index_that_names_the_wrong_file(split_folder: Path) -> None:
    file = split_folder / INDEX_FILE
    document = json.loads(file.read_text(encoding="utf-8"))
    document["weight_map"][NAME] = document["weight_map"]["model.embed_tokens.weight"]
    file.write_text(json.dumps(document), encoding="utf-8")
    with pytest.raises(InvalidModel, match=rf"no tensor {NAME}, which .*index\.json says it holds"):
        entries(split_folder)


def test_a_file_that_is_cut_after_its_header_was_read(folder: Path) -> None:
    entry = Checkpoint(folder).entry(NAME, SHAPE)
    os.truncate(entry.path, entry.offset_bytes + 10)
    with pytest.raises(InvalidModel, match=f"ends within tensor {NAME}; the file is not complete"):
        content(entry)
    with pytest.raises(InvalidModel, match=f"ends within tensor {NAME}"):
        read_whole(entry, memoryview(bytearray(entry.size_bytes)))
    entry.path.unlink()
    with pytest.raises(InvalidModel, match=f"{NAME} cannot be read"):
        content(entry)


def test_a_shard_of_another_number_of_layers(folder: Path) -> None:
    with pytest.raises(InvalidShard, match="of 3 layers, the config has 2"):
        shard_entries(folder, SPEC, Shard(ModelId("tiny"), 0, 1, 3))


def test_matrices_are_the_same_where_type_shape_and_bytes_are(tmp_path: Path) -> None:
    one = np.arange(6, dtype=np.float32).reshape(2, 3)
    save_file(
        {"one": one, "copy": one.copy(), "other": one + 1, "turned": one.reshape(3, 2), "bits": one.view(np.int32)},
        tmp_path / "model.safetensors",
    )
    checkpoint = Checkpoint(tmp_path)
    first = checkpoint.entry("one", (2, 3))
    assert is_same_matrix(first, checkpoint.entry("copy", (2, 3)))
    assert not is_same_matrix(first, checkpoint.entry("other", (2, 3)))
    assert not is_same_matrix(first, checkpoint.entry("turned", (3, 2)))
