"""The small JSON files of a model folder."""

from __future__ import annotations

import json
import reprlib
import stat
from collections.abc import Mapping
from pathlib import Path

from exo_lite.domain.errors import InvalidModel

MAX_JSON_BYTES = 256 << 20
"""Above the largest tokenizer.json and weight index known, below what would hurt a small machine."""


def read_json_object(path: Path, *, max_bytes: int = MAX_JSON_BYTES) -> dict[str, object]:
    """The object in a JSON file. Raises InvalidModel naming the file."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise InvalidModel(f"{path.name} is no file")
        if status.st_size > max_bytes:
            raise InvalidModel(f"{path.name} takes {status.st_size} bytes, more than the {max_bytes} that are read")
        text = path.read_text(encoding="utf-8")
        content = json.loads(text)
        _refuse_half_characters(text, content)
    except OSError as error:
        raise InvalidModel(f"{path.name} cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise InvalidModel(f"{path.name} is not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise InvalidModel(f"{path.name} must hold a JSON object, not {type(content).__name__}")
    return content


def _refuse_half_characters(text: str, content: object) -> None:
    """Raise ValueError for half of a surrogate pair, which JSON can spell and no file, log or library takes."""
    if "\\ud" in text or "\\uD" in text:
        json.dumps(content, ensure_ascii=False).encode()


def read_json_object_if_present(path: Path) -> dict[str, object]:
    """The same, empty where there is no such file."""
    return read_json_object(path) if path.is_file() else {}


def optional_bool(values: Mapping[str, object], key: str, *, file_name: str) -> bool | None:
    """The boolean under `key`, None where it is absent or null. Raises InvalidModel for anything else."""
    value = values.get(key)
    if value is None or isinstance(value, bool):
        return value
    raise InvalidModel(f"{file_name}: {key} must be true or false, not {reprlib.repr(value)}")
