"""Models that are split over several GGUF files, and folders that hold one: which files belong together.

Names: NAME-00001-of-00003.gguf, as llama.cpp's gguf-split writes and reads them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from exo_lite.domain.errors import InvalidModel, InvalidRequest
from exo_lite.store.file_kinds import refuse_old_gguf, refuse_pointer
from exo_lite.store.gguf.file import GGUFFile, open_gguf_file

_PART = re.compile(r"(.+)-([0-9]{5})-of-([0-9]{5})\.gguf", re.IGNORECASE)
_MAX_PARTS = 1000


def choose_gguf(folder: Path, files: Sequence[Path]) -> Path:
    """The only model of a folder: one file, or the first of one set. Raises InvalidRequest where there are several."""
    models = {match[1] if (match := _PART.fullmatch(path.name)) else path.name: path for path in reversed(files)}
    if len(models) > 1:
        names = ", ".join(path.name for path in sorted(models.values())[:8])
        raise InvalidRequest(f"{folder.name} holds {len(models)} models: give one's file ({names})", param="path")
    return next(iter(models.values()))


def open_whole_gguf(path: Path) -> GGUFFile:
    """A file, together with the other parts of its set if it is one. Raises InvalidModel, UnsupportedModel, OSError."""
    file = _open_part(path)
    num_parts = file.count("split.count", 1)
    if num_parts <= 1:
        return file
    paths = _part_paths(path, num_parts)
    parts = [file if one.name == path.name else _open_part(one) for one in paths]
    for number, (part, part_path) in enumerate(zip(parts, paths, strict=True)):
        _check_part(part, part_path, number, num_parts)
    return _joined(parts)


def _open_part(path: Path) -> GGUFFile:
    refuse_pointer(path)
    refuse_old_gguf(path)
    return open_gguf_file(path)


def _part_paths(path: Path, num_parts: int) -> list[Path]:
    match = _PART.fullmatch(path.name)
    if num_parts > _MAX_PARTS or match is None or int(match[3]) != num_parts:
        raise InvalidModel(
            f"{path.name} is one of {num_parts} parts, and its name does not say which: give all of them the names "
            f"that they had, NAME-00001-of-{num_parts:05}.gguf and so on"
        )
    paths = [path.with_name(f"{match[1]}-{number:05}-of-{num_parts:05}.gguf") for number in range(1, num_parts + 1)]
    missing = [one.name for one in paths if one.name != path.name and not one.is_file()]
    if missing:
        others = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise InvalidModel(f"{missing[0]}{others} is missing beside {path.name}: fetch all {num_parts} parts")
    return paths


def _check_part(part: GGUFFile, path: Path, number: int, num_parts: int) -> None:
    found = (part.count("split.no", 0), part.count("split.count", 1))
    if found != (number, num_parts):
        raise InvalidModel(
            f"{path.name} says that it is part {found[0] + 1} of {found[1]}: it belongs to another set or was renamed"
        )


def _joined(parts: Sequence[GGUFFile]) -> GGUFFile:
    """The first part's metadata and every part's tensors."""
    first = parts[0]
    tensors = {name: tensor for part in parts for name, tensor in part.tensors.items()}
    num_tensors = sum(len(part.tensors) for part in parts)
    if len(tensors) != num_tensors:
        raise InvalidModel(f"{first.name} and the parts beside it hold a tensor twice: they are not of one set")
    expected = first.count("split.tensors.count", num_tensors)
    if num_tensors != expected:
        raise InvalidModel(f"{first.name} and the parts beside it hold {num_tensors} tensors, not {expected}")
    return first.with_tensors(tensors)
