"""A model's folder in the store: what is in it, and whether that is sound."""

from __future__ import annotations

import errno
from dataclasses import dataclass
from pathlib import Path

from exo_lite.catalog.hf_config import spec_from_config
from exo_lite.catalog.table import load_table
from exo_lite.checkpoint.json_files import read_json_object
from exo_lite.domain.errors import InvalidModel, StorageError
from exo_lite.domain.ids import ModelId
from exo_lite.domain.model_spec import ModelSpec
from exo_lite.store.hf_folder import CONFIG_FILE
from exo_lite.store.manifest import MANIFEST_FILE, Manifest, read_manifest

_MACHINE_ERRORS = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)
"""These say nothing about the file that they came from."""


@dataclass(frozen=True, slots=True)
class StoredModel:
    """A complete model in the store. `fingerprint` is the same only where every file is."""

    model_id: ModelId
    path: Path
    spec: ModelSpec
    fingerprint: str
    weight_bytes: int


@dataclass(frozen=True, slots=True)
class DamagedModel:
    """A folder that has a manifest and cannot be used."""

    model_id: ModelId
    reason: str

    @property
    def fix(self) -> str:
        return f"`exo-lite rm {self.model_id}`, then import it again"


def read_model(folder: Path) -> StoredModel:
    """Raises InvalidModel for a damaged folder, StorageError where the machine cannot open files at all."""
    try:
        return _read_model(folder)
    except OSError as error:
        _raise_if_machine_fails(folder, error)
        raise InvalidModel(f"it cannot be read: {error.strerror or error}") from error
    except InvalidModel as error:
        _raise_if_machine_fails(folder, error.__cause__)
        raise


def _read_model(folder: Path) -> StoredModel:
    _check_name(folder.name)
    manifest = read_manifest(folder)
    if manifest.model_id != folder.name:
        raise InvalidModel(f"{MANIFEST_FILE} is that of {manifest.model_id}")
    _check_sizes(folder, manifest)
    spec = spec_from_config(read_json_object(folder / CONFIG_FILE))
    return StoredModel(ModelId(folder.name), folder, spec, manifest.fingerprint, manifest.weight_bytes)


def _check_name(name: str) -> None:
    """A folder that is named like another model's alias could not be reached: requests go to that model."""
    row = load_table().find(name)
    if row is not None and row.model_id != name:
        raise InvalidModel(f"its id is another name of {row.model_id}, where requests for it go")


def _check_sizes(folder: Path, manifest: Manifest) -> None:
    for entry in manifest.files:
        path = folder / entry.name
        if not path.is_file() or path.stat().st_size != entry.size_bytes:
            raise InvalidModel(f"{entry.name} is missing or not of {entry.size_bytes} bytes")


def _raise_if_machine_fails(folder: Path, cause: BaseException | None) -> None:
    if isinstance(cause, OSError) and cause.errno in _MACHINE_ERRORS:
        raise StorageError(f"{folder} cannot be read now: {cause.strerror or cause}") from cause
