"""Files that are told by their first bytes."""

from __future__ import annotations

import re
from pathlib import Path

from exo_lite.domain.errors import InvalidModel, UnsupportedModel

PICKLE_SUFFIXES = (".bin", ".pth", ".pt", ".ckpt", ".pkl")

_GGUF_MAGIC = b"GGUF"
_GGML_MAGICS = (b"lmgg", b"fmgg", b"tjgg", b"algg")
"""The file forms before GGUF: their names stand as little-endian numbers."""
_POINTER = b"version https://git-lfs.github.com/spec/"
_POINTER_SIZE = re.compile(rb"^size ([0-9]{1,18})$", re.MULTILINE)
_MAX_POINTER_BYTES = 1024


def first_bytes(path: Path, count: int) -> bytes:
    """Raises OSError."""
    with path.open("rb") as file:
        return file.read(count)


def starts_like_gguf(path: Path) -> bool:
    """Say whether a file is GGUF or one of its predecessors. Raises OSError."""
    return first_bytes(path, 4) in (_GGUF_MAGIC, *_GGML_MAGICS)


def refuse_old_gguf(path: Path) -> None:
    """Raise UnsupportedModel for the forms of 2023 that hold no whole metadata; OSError."""
    head = first_bytes(path, 8)
    version = int.from_bytes(head[4:8], "little")
    if head[:4] in _GGML_MAGICS or (head[:4] == _GGUF_MAGIC and version in (1, 1 << 24)):
        form = "GGUF version 1" if head[:4] == _GGUF_MAGIC else "GGML, the form before GGUF"
        raise UnsupportedModel(
            f"{path.name} is of {form}, which was in use until autumn 2023: get a newer file of this model, "
            "or convert its Hugging Face folder, or import that folder itself"
        )


def refuse_pointer(path: Path) -> None:
    """Raise InvalidModel for what git leaves in a large file's place where git-lfs has not run; OSError."""
    head = first_bytes(path, _MAX_POINTER_BYTES)
    if head.startswith(_POINTER):
        size = _POINTER_SIZE.search(head)
        of_size = f" of {int(size[1])} bytes" if size else ""
        raise InvalidModel(
            f"{path.name} is a git-lfs pointer to a file{of_size}, not the file: fetch it (`git lfs pull` in its "
            "repository)"
        )
