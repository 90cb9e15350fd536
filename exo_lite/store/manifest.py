"""manifest.json: what a stored model consists of. Written last, so a folder without one is no model."""

from __future__ import annotations

import hashlib
import json
import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from exo_lite.checkpoint.json_files import read_json_object
from exo_lite.domain.errors import InvalidModel, InvalidRequest
from exo_lite.domain.ids import ModelId, parse_model_id

MANIFEST_FILE = "manifest.json"
MANIFEST_FORMAT = 1
MAX_MANIFEST_BYTES = 4 << 20
MAX_FILES = 10_000
MAX_NAME_BYTES = 255
"""The length of a file's name on every common file system."""
_MAX_BYTES = 2**63 - 1


@dataclass(frozen=True, slots=True)
class FileEntry:
    """`sha256` in hexadecimal."""

    name: str
    size_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """`source` is a name, never a path; `weight_bytes` are those of the tensors alone."""

    model_id: str
    source: str
    weight_bytes: int
    files: tuple[FileEntry, ...]

    @property
    def fingerprint(self) -> str:
        return fingerprint_of(self.files)

    def to_json(self) -> bytes:
        document = {
            "format": MANIFEST_FORMAT,
            "id": self.model_id,
            "source": self.source,
            "weight_bytes": self.weight_bytes,
            "fingerprint": self.fingerprint,
            "files": [asdict(entry) for entry in self.files],
        }
        return (json.dumps(document, indent=2) + "\n").encode()


def fingerprint_of(files: Sequence[FileEntry]) -> str:
    """The same for two models only if every file has the same name and content."""
    pairs = sorted((entry.name, entry.sha256) for entry in files)
    return hashlib.sha256(json.dumps(pairs, separators=(",", ":")).encode()).hexdigest()


def read_manifest(folder: Path) -> Manifest:
    """Raises InvalidModel, also where the fingerprint is not that of the files listed."""
    document = read_json_object(folder / MANIFEST_FILE, max_bytes=MAX_MANIFEST_BYTES)
    if document.get("format") != MANIFEST_FORMAT:
        raise InvalidModel(f"{MANIFEST_FILE}: format {reprlib.repr(document.get('format'))} is not {MANIFEST_FORMAT}")
    files = document.get("files")
    if not isinstance(files, list):
        raise InvalidModel(f"{MANIFEST_FILE}: files must be a list")
    if len(files) > MAX_FILES:
        raise InvalidModel(f"{MANIFEST_FILE}: {len(files)} files are more than the {MAX_FILES} that a model may have")
    manifest = Manifest(
        model_id=_model_id(document),
        source=_text(document, "source"),
        weight_bytes=_count(document, "weight_bytes"),
        files=tuple(_file_entry(one) for one in files),
    )
    if document.get("fingerprint") != manifest.fingerprint:
        raise InvalidModel(f"{MANIFEST_FILE}: the fingerprint is not that of the files listed")
    return manifest


def _model_id(document: Mapping[str, object]) -> ModelId:
    text = _text(document, "id")
    try:
        return parse_model_id(text)
    except InvalidRequest as error:
        raise InvalidModel(f"{MANIFEST_FILE}: {reprlib.repr(text)} is not a model id") from error


def _file_entry(value: object) -> FileEntry:
    if not isinstance(value, Mapping):
        raise InvalidModel(f"{MANIFEST_FILE}: an entry of files must be an object, not {reprlib.repr(value)}")
    name = _text(value, "name")
    if not _is_file_name(name):
        raise InvalidModel(f"{MANIFEST_FILE}: {reprlib.repr(name)} is not the name of a file in its own folder")
    return FileEntry(name, _count(value, "size_bytes"), _text(value, "sha256"))


def _is_file_name(name: str) -> bool:
    """Say whether a file in the model's folder can have this name on every system."""
    is_plain = name.isprintable() and name not in ("", ".", "..") and Path(name).name == name
    return is_plain and len(name.encode()) <= MAX_NAME_BYTES


def _text(values: Mapping[str, object], key: str) -> str:
    value = values.get(key)
    if not isinstance(value, str):
        raise InvalidModel(f"{MANIFEST_FILE}: {key} must be text, not {reprlib.repr(value)}")
    return value


def _count(values: Mapping[str, object], key: str) -> int:
    value = values.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= _MAX_BYTES:
        raise InvalidModel(f"{MANIFEST_FILE}: {key} must be a count, not {reprlib.repr(value)}")
    return value
