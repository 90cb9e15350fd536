"""The hashes of a stored model's pieces: made once, kept beside the manifest, made anew where they are not sound."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from exo_lite.checkpoint.piece_hashes import hash_pieces
from exo_lite.domain.errors import InvalidModel
from exo_lite.store import pieces_file
from exo_lite.store.model_store import ModelStore
from exo_lite.store.pieces_file import PIECES_FILE, pieces_of
from exo_lite.store.stored_model import StoredModel
from tests.unit.store.tiny_models import SPEC


@pytest.fixture
def model(store: ModelStore, hf_folder: Path) -> StoredModel:
    return store.import_path(hf_folder, "tiny", lambda num_written, num_bytes: None)


def refuse_to_hash(model_dir: Path, spec: object) -> None:
    raise AssertionError("the weights are read again")


def test_pieces_are_hashed_once(model: StoredModel, monkeypatch: pytest.MonkeyPatch) -> None:
    pieces = pieces_of(model)
    assert pieces == hash_pieces(model.path, SPEC)
    monkeypatch.setattr(pieces_file, "hash_pieces", refuse_to_hash)
    assert pieces_of(model) == pieces


def test_the_file_says_what_it_is_of(model: StoredModel, store: ModelStore) -> None:
    pieces = pieces_of(model)
    document = json.loads((model.path / PIECES_FILE).read_text(encoding="utf-8"))
    assert (document["format"], document["fingerprint"]) == (1, model.fingerprint)
    assert document["pieces"] == {piece.name: piece.sha256 for piece in pieces}
    assert sorted(path.name for path in model.path.iterdir()) == [
        "config.json", "manifest.json", "model.safetensors", PIECES_FILE, "tokenizer.json",
    ]  # fmt: skip
    assert store.list() == [model]


@pytest.mark.parametrize(
    "change",
    [
        lambda document: document | {"format": 2},
        lambda document: document | {"fingerprint": "0" * 64},
        lambda document: document | {"pieces": {}},
        lambda document: document | {"pieces": ["embedding"]},
        lambda document: document | {"tensors": None},
        lambda document: document | {"pieces": document["pieces"] | {"embedding": "0" * 64}},
        lambda document: document | {"pieces": document["pieces"] | {"layer-00002": "0" * 64}},
        lambda document: document | {"tensors": document["tensors"] | {"model.norm.weight": "0" * 64}},
        lambda document: document | {"tensors": document["tensors"] | {"model.norm.weight": 3}},
        lambda document: document | {"tensors": {}},
        lambda document: [document],
    ],
)
def test_a_file_that_cannot_be_trusted_is_made_anew(
    model: StoredModel, change: Callable[[dict[str, object]], object], caplog: pytest.LogCaptureFixture
) -> None:
    pieces = pieces_of(model)
    path = model.path / PIECES_FILE
    sound = path.read_bytes()
    path.write_text(json.dumps(change(json.loads(sound))), encoding="utf-8")
    assert pieces_of(model) == pieces
    assert path.read_bytes() == sound
    assert "made anew" in caplog.text


def test_no_hashes_are_kept_of_damaged_weights(model: StoredModel) -> None:
    weights = model.path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(InvalidModel, match="truncated or damaged"):
        pieces_of(model)
    assert not (model.path / PIECES_FILE).exists()


def test_a_disk_without_room_costs_only_time(
    model: StoredModel, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*paths: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", fail)
    assert pieces_of(model) == hash_pieces(model.path, SPEC)
    assert "not kept" in caplog.text
    assert not (model.path / PIECES_FILE).exists()
