"""A model to import, as a list of files that are still to be written."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from exo_lite.domain.model_spec import ModelSpec

COPY_BYTES = 4 << 20
"""Read and written at once: bounds the memory that a copy takes."""


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A file to be: `chunks` makes its bytes, in order, `size_bytes` in all."""

    name: str
    size_bytes: int
    chunks: Callable[[], Iterator[bytes]]


@dataclass(frozen=True, slots=True)
class ModelSource:
    """A model that was found sound. `name` is where it came from: the last part of a path, nothing above it."""

    name: str
    spec: ModelSpec
    weight_bytes: int
    files: tuple[SourceFile, ...]
    notes: tuple[str, ...] = ()
    """Notes for the user, in sentences."""

    @property
    def size_bytes(self) -> int:
        return sum(file.size_bytes for file in self.files)


def content_file(name: str, content: bytes) -> SourceFile:
    """A small file that is in memory already."""
    return SourceFile(name, len(content), lambda: iter((content,)))


def copied_file(path: Path, *, name: str | None = None) -> SourceFile:
    """A file to be copied, symbolic links followed. Raises OSError."""

    def chunks() -> Iterator[bytes]:
        with path.open("rb") as file:
            while chunk := file.read(COPY_BYTES):
                yield chunk

    return SourceFile(name or path.name, path.stat().st_size, chunks)
