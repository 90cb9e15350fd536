"""Pieces: every tensor in one of them, what a shard needs and no more, and hashes that go by content alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

from exo_lite.checkpoint.piece_hashes import hash_pieces
from exo_lite.checkpoint.pieces import Piece, expected_pieces, shard_pieces
from exo_lite.checkpoint.tensor_names import all_tensors, expected_tensors
from exo_lite.domain.ids import ModelId
from exo_lite.domain.model_spec import ModelSpec
from exo_lite.domain.shard import Shard
from tests.unit.store.tiny_models import SPEC, random_tensors, split_in_two, write_hf_folder

LAYER_1 = "layer-00001"

specs = st.builds(
    replace,
    st.just(SPEC),
    num_hidden_layers=st.integers(1, 12),
    tie_word_embeddings=st.booleans(),
    attention_bias=st.booleans(),
    mlp_bias=st.booleans(),
    has_qk_norm=st.booleans(),
)


@st.composite
def shards(draw: st.DrawFn) -> tuple[ModelSpec, Shard]:
    spec = draw(specs)
    start_layer = draw(st.integers(0, spec.n_layers - 1))
    return spec, Shard(ModelId("m"), start_layer, draw(st.integers(start_layer, spec.n_layers - 1)), spec.n_layers)


@given(specs)
def test_every_tensor_is_in_one_piece(spec: ModelSpec) -> None:
    pieces = expected_pieces(spec)
    names = [name for tensors in pieces.values() for name in tensors]
    assert len(names) == len(set(names))
    assert {name: shape for tensors in pieces.values() for name, shape in tensors.items()} == all_tensors(spec)


@given(shards())
def test_the_pieces_of_a_shard_hold_its_tensors_and_no_others(shard_of_spec: tuple[ModelSpec, Shard]) -> None:
    spec, shard = shard_of_spec
    pieces, names = expected_pieces(spec), shard_pieces(spec, shard)
    assert names == [name for name in pieces if name in names]
    held = {name: shape for piece in names for name, shape in pieces[piece].items()}
    assert held == expected_tensors(spec, shard)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_hf_folder(tmp_path / "tiny", SPEC, random_tensors(SPEC))


def hashes(pieces: tuple[Piece, ...]) -> dict[str, str]:
    return {piece.name: piece.sha256 for piece in pieces}


def test_pieces_name_their_bytes(folder: Path) -> None:
    pieces = {piece.name: piece for piece in hash_pieces(folder, SPEC)}
    assert [*pieces] == ["embedding", "layer-00000", LAYER_1, "head"]
    tensors = random_tensors(SPEC)
    for piece in pieces.values():
        for one in piece.tensors:
            content = one.entry.path.read_bytes()[one.entry.offset_bytes :][: one.entry.size_bytes]
            assert content == tensors[one.entry.name].tobytes()
    assert sum(piece.size_bytes for piece in pieces.values()) == 4 * SPEC.num_parameters


def test_how_weights_are_spread_over_files_changes_no_hash(folder: Path) -> None:
    whole = hashes(hash_pieces(folder, SPEC))
    split_in_two(folder)
    assert hashes(hash_pieces(folder, SPEC)) == whole


def test_one_weight_changes_the_hash_of_its_piece_alone(folder: Path) -> None:
    before = hashes(hash_pieces(folder, SPEC))
    tensors = random_tensors(SPEC)
    tensors["model.layers.1.mlp.down_proj.weight"][3, 5] += 1
    save_file(tensors, folder / "model.safetensors")
    after = hashes(hash_pieces(folder, SPEC))
    assert {name for name in before if before[name] != after[name]} == {LAYER_1}


def test_the_type_is_part_of_the_content(folder: Path) -> None:
    before = hashes(hash_pieces(folder, SPEC))
    zeros = {name: np.zeros(values.shape, np.float16) for name, values in random_tensors(SPEC).items()}
    save_file(zeros, folder / "model.safetensors")
    halves = hashes(hash_pieces(folder, SPEC))
    assert not before.items() & halves.items()
    assert len({*halves.values()}) == len(halves)
