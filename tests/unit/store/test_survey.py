"""Looking at the models folder again and again: what changed is seen, what did not is not read."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from exo_lite.domain.errors import StorageError
from exo_lite.store import survey as survey_module
from exo_lite.store.model_store import ModelStore
from exo_lite.store.stored_model import DamagedModel, StoredModel


def quiet(num_written: int, num_bytes: int) -> None:
    pass


@pytest.fixture
def filled(store: ModelStore, hf_folder: Path) -> ModelStore:
    store.import_path(hf_folder, "tiny", quiet)
    store.import_path(hf_folder, "other", quiet)
    return store


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the folders that were read, as they are read."""
    names: list[str] = []
    read = survey_module._read

    def counted(folder: Path) -> StoredModel | DamagedModel:
        names.append(folder.name)
        return read(folder)

    monkeypatch.setattr(survey_module, "_read", counted)
    return names


def ids(store: ModelStore) -> list[str]:
    return [model.model_id for model in store.list()]


def test_what_has_not_changed_is_not_read_again(filled: ModelStore, reads: list[str]) -> None:
    assert ids(filled) == ids(filled) == ["other", "tiny"]
    assert reads == ["other", "tiny"]


@pytest.mark.parametrize("name", ["manifest.json", "config.json", "model.safetensors", "tokenizer.json"])
def test_a_file_that_changes_is_seen_and_the_others_stay(filled: ModelStore, reads: list[str], name: str) -> None:
    assert ids(filled) == ["other", "tiny"]
    (filled.models_dir / "tiny" / name).write_bytes(b"{}")
    assert ids(filled) == ["other"]
    assert [one.model_id for one in filled.survey().damaged] == ["tiny"]
    assert reads == ["other", "tiny", "tiny"]


def test_models_that_come_and_go_are_seen(filled: ModelStore, hf_folder: Path) -> None:
    assert ids(filled) == ["other", "tiny"]
    filled.remove("other")
    assert ids(filled) == ["tiny"]
    filled.import_path(hf_folder, "new", quiet)
    assert ids(filled) == ["new", "tiny"]


def without_rights(folder: Path) -> None:
    (folder / "config.json").unlink()
    (folder / "config.json").symlink_to("config.json")  # a link to itself fails for root too


def as_folder(folder: Path) -> None:
    (folder / "manifest.json").unlink()
    (folder / "manifest.json").mkdir()


def as_pipe(folder: Path) -> None:
    (folder / "manifest.json").unlink()
    os.mkfifo(folder / "manifest.json")


@pytest.mark.parametrize("damage", [without_rights, as_folder, as_pipe])
def test_whatever_one_model_is_the_others_are_listed(filled: ModelStore, damage: Callable[[Path], None]) -> None:
    damage(filled.models_dir / "tiny")
    assert ids(filled) == ["other"]
    assert [one.model_id for one in filled.survey().damaged] == ["tiny"]


def test_a_machine_that_can_open_no_more_files_says_nothing_about_models(
    filled: ModelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_more(path: Path, *_: object, **__: object) -> str:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(Path, "read_text", no_more)
    with pytest.raises(StorageError, match="cannot be read now: Too many open files"):
        filled.survey()
    monkeypatch.undo()
    assert ids(filled) == ["other", "tiny"]


def test_a_folder_that_is_a_file_says_so(tmp_path: Path) -> None:
    (tmp_path / "models").touch()
    with pytest.raises(StorageError, match="models cannot be read: Not a directory"):
        ModelStore(tmp_path / "models").survey()
