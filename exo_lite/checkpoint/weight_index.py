"""The index of a checkpoint in several files: which one holds each tensor."""

from __future__ import annotations

import reprlib
from pathlib import Path

from exo_lite.checkpoint.json_files import read_json_object
from exo_lite.domain.errors import InvalidModel

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
SUFFIX = ".safetensors"
_MAX_NAME_BYTES = 255


def read_weight_map(folder: Path) -> dict[str, str]:
    """File name by tensor name; no file has been looked at. Raises InvalidModel."""
    weight_map = read_json_object(folder / INDEX_FILE).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise InvalidModel(f"{INDEX_FILE} has no weight_map, which says the file of each tensor")
    for name in weight_map.values():
        if not isinstance(name, str) or not _is_file_name(name):
            raise InvalidModel(
                f"{INDEX_FILE}: {reprlib.repr(name)} is not the name of a safetensors file in its own folder"
            )
    return weight_map


def _is_file_name(name: str) -> bool:
    is_plain = name.isprintable() and Path(name).name == name
    return is_plain and name.endswith(SUFFIX) and len(name.encode()) <= _MAX_NAME_BYTES
