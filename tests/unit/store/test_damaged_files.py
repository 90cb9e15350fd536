"""Random damage to every kind of file: an error of ours in words, quickly, and the store's other models stay."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest

from exo_lite.domain.errors import ExoLiteError
from exo_lite.store.model_store import ModelStore
from tests.damage import damaged_bytes, damaged_json
from tests.unit.store.tiny_models import SPEC, random_tensors, recipe_for, split_in_two, write_hf_folder

pytestmark = pytest.mark.timeout(300)
NUM_FILES = [300, pytest.param(5_000, marks=[pytest.mark.long, pytest.mark.timeout(900)])]
MAX_MESSAGE_BYTES = 2000
QUICKLY_S = 20.0
"""On a machine that is as busy as it may be; a search that grows with the square of a file takes minutes."""
METADATA_BYTES = 3500
"""Of the tiny GGUF file, about."""


def quiet(num_written: int, num_bytes: int) -> None:
    pass


@pytest.fixture
def filled(store: ModelStore, hf_folder: Path) -> ModelStore:
    store.import_path(hf_folder, "sound", quiet)
    return store


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A Hugging Face folder with every kind of small file: a GGUF file's, as the store writes them, and a few more."""
    recipe = replace(recipe_for(SPEC), metadata={**recipe_for(SPEC).metadata, "tokenizer.chat_template": None})
    first = ModelStore(tmp_path / "first")
    path = first.import_path(recipe.write(tmp_path / "first.gguf"), "first", quiet).path
    (path / "manifest.json").unlink()
    (path / "added_tokens.json").write_text('{"<more>": 12}', encoding="utf-8")
    (path / "special_tokens_map.json").write_text('{"bos_token": {"content": "<s>"}}', encoding="utf-8")
    return path


def check_import(store: ModelStore, source: Path) -> bool:
    """Whether a source was taken in. It was, or is refused with an error that can be shown; nothing else changes."""
    started_s = time.monotonic()
    message = ""
    try:
        store.import_path(source, "damaged", quiet)
    except ExoLiteError as error:
        message = str(error)
    else:
        store.remove("damaged")
    assert len(message.encode()) < MAX_MESSAGE_BYTES  # nor does it raise, as half characters would
    assert time.monotonic() - started_s < QUICKLY_S
    assert [model.model_id for model in store.list()] == ["sound"]
    return message == ""


def import_many(store: ModelStore, folder: Path, damage: Callable[[Random], object], num_files: int) -> None:
    """Both outcomes are to come up, or the damage proves nothing."""
    random = Random(12)
    outcomes = set()
    for _ in range(num_files):
        damage(random)
        outcomes.add(check_import(store, folder))
    assert outcomes == {True, False}


@pytest.mark.parametrize("num_files", NUM_FILES)
def test_damaged_gguf_files(filled: ModelStore, tmp_path: Path, num_files: int) -> None:
    recipe = recipe_for(SPEC)
    del recipe.metadata["tokenizer.chat_template"]
    path = tmp_path / "damaged.gguf"
    content = recipe.write(path).read_bytes()
    import_many(
        filled,
        path,
        lambda random: path.write_bytes(damaged_bytes(content, random, header_bytes=METADATA_BYTES)),
        num_files,
    )


@pytest.mark.parametrize("num_files", NUM_FILES)
def test_damaged_configs(filled: ModelStore, folder: Path, num_files: int) -> None:
    path = folder / "config.json"
    document = json.loads(path.read_bytes())
    import_many(filled, folder, lambda random: path.write_bytes(damaged_json(document, random)), num_files)


@pytest.mark.parametrize("num_files", NUM_FILES)
def test_damaged_tokenizer_files(filled: ModelStore, folder: Path, num_files: int) -> None:
    sound = {path: path.read_bytes() for path in sorted(folder.glob("*.json")) if path.name != "config.json"}

    def damage(random: Random) -> None:
        for path, content in sound.items():
            path.write_bytes(content)
        path = random.choice([*sound])
        path.write_bytes(damaged_json(json.loads(sound[path]), random))

    import_many(filled, folder, damage, num_files)


@pytest.mark.parametrize("num_files", NUM_FILES)
def test_damaged_indexes(filled: ModelStore, tmp_path: Path, num_files: int) -> None:
    folder = write_hf_folder(tmp_path / "split", SPEC, random_tensors(SPEC))
    split_in_two(folder)
    path = folder / "model.safetensors.index.json"
    document = json.loads(path.read_bytes())
    import_many(filled, folder, lambda random: path.write_bytes(damaged_json(document, random)), num_files)


@pytest.mark.parametrize("num_files", NUM_FILES)
def test_damaged_weights(filled: ModelStore, folder: Path, num_files: int) -> None:
    path = folder / "model.safetensors"
    content = path.read_bytes()
    header_bytes = 8 + int.from_bytes(content[:8], "little")
    import_many(
        filled,
        folder,
        lambda random: path.write_bytes(damaged_bytes(content, random, header_bytes=header_bytes)),
        num_files,
    )


@pytest.mark.parametrize("num_files", NUM_FILES)
def test_damaged_manifests(filled: ModelStore, num_files: int) -> None:
    """As a daemon meets them: in its models folder, looked at again and again."""
    sound = filled.models_dir / "sound"
    document = json.loads((sound / "manifest.json").read_bytes())
    folder = filled.models_dir / "damaged"
    folder.mkdir()
    for path in sound.iterdir():
        (folder / path.name).hardlink_to(path)
    (folder / "manifest.json").unlink()
    random = Random(12)
    for _ in range(num_files):
        (folder / "manifest.json").write_bytes(damaged_json(document | {"id": "damaged"}, random))
        survey = filled.survey()
        ids = [one.model_id for one in survey.models] + [one.model_id for one in survey.damaged]
        assert sorted(ids) == ["damaged", "sound"]
        assert survey.models[-1].model_id == "sound"
        assert all(len(one.reason.encode()) < MAX_MESSAGE_BYTES for one in survey.damaged)
