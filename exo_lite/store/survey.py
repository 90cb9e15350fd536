"""The content of the models folder, looked at repeatedly: only what has changed is read."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from exo_lite.domain.errors import InvalidModel, InvalidRequest, StorageError
from exo_lite.domain.ids import ModelId, parse_model_id
from exo_lite.store.hf_folder import CONFIG_FILE
from exo_lite.store.manifest import MANIFEST_FILE, read_manifest
from exo_lite.store.stored_model import DamagedModel, StoredModel, read_model

_FileState = tuple[int, int, int] | None


@dataclass(frozen=True, slots=True)
class Survey:
    """Every model of the folder, by id."""

    models: tuple[StoredModel, ...] = ()
    damaged: tuple[DamagedModel, ...] = ()


@dataclass(frozen=True, slots=True)
class _Seen:
    """A folder as it was: `states` are those of `files`."""

    files: tuple[str, ...]
    states: tuple[_FileState, ...]
    model: StoredModel | DamagedModel


class Surveyor:
    """Keeps what it saw. Safe for several threads: each look leaves a whole new picture."""

    def __init__(self, models_dir: Path) -> None:
        self._models_dir = models_dir
        self._seen: dict[ModelId, _Seen] = {}

    def look(self) -> Survey:
        """Raises StorageError where the folder cannot be read or the machine cannot open files."""
        old = self._seen
        self._seen = seen = {model_id: self._look_at(model_id, old.get(model_id)) for model_id in self._model_ids()}
        found = [one.model for one in seen.values()]
        return Survey(
            tuple(model for model in found if isinstance(model, StoredModel)),
            tuple(model for model in found if isinstance(model, DamagedModel)),
        )

    def _model_ids(self) -> list[ModelId]:
        """Folders without a manifest are no models, or not yet."""
        try:
            names = sorted(os.listdir(self._models_dir))  # noqa: PTH208
        except FileNotFoundError:
            return []
        except OSError as error:
            raise StorageError(f"{self._models_dir} cannot be read: {error.strerror or error}") from error
        return [one for name in names if (one := self._model_id(name)) is not None]

    def _model_id(self, name: str) -> ModelId | None:
        with suppress(InvalidRequest):
            model_id = parse_model_id(name)
            if _state(f"{self._models_dir}{os.sep}{model_id}{os.sep}{MANIFEST_FILE}") is not None:
                return model_id
        return None

    def _look_at(self, model_id: ModelId, seen: _Seen | None) -> _Seen:
        folder = self._models_dir / model_id
        if seen is not None and _states(folder, seen.files) == seen.states:
            return seen
        files = _files_of(folder)
        states = _states(folder, files)  # before it is read: what changes meanwhile is read again
        return _Seen(files, states, _read(folder))


def _read(folder: Path) -> StoredModel | DamagedModel:
    try:
        return read_model(folder)
    except InvalidModel as error:
        return DamagedModel(ModelId(folder.name), str(error))


def _files_of(folder: Path) -> tuple[str, ...]:
    """Return the files on which the model's soundness depends."""
    names: list[str] = []
    with suppress(InvalidModel):
        names = [entry.name for entry in read_manifest(folder).files]
    return (MANIFEST_FILE, CONFIG_FILE, *names)


def _states(folder: Path, files: Sequence[str]) -> tuple[_FileState, ...]:
    """Join paths as text: a thousand folders are checked twice a second, and Path would take most of that time."""
    base = os.fspath(folder)
    return tuple(_state(f"{base}{os.sep}{name}") for name in files)


def _state(path: str) -> _FileState:
    """The file's last change, length and number; None where there is none."""
    try:
        status = os.stat(path)  # noqa: PTH116
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino
