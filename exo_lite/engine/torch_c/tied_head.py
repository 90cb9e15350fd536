"""Whether the head that a checkpoint carries beside a tied embedding is the same matrix."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

BLOCK_BYTES = 4 << 20


class StoredMatrix(Protocol):
    """A tensor in a file."""

    @property
    def path(self) -> Path: ...
    @property
    def dtype(self) -> str: ...
    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def offset_bytes(self) -> int: ...
    @property
    def size_bytes(self) -> int: ...


def is_same_matrix(one: StoredMatrix, other: StoredMatrix) -> bool:
    """Whether two tensors are equal byte for byte. Raises OSError."""
    if (one.dtype, one.shape) != (other.dtype, other.shape):
        return False
    return all(first == second for first, second in zip(_blocks(one), _blocks(other), strict=True))


def _blocks(tensor: StoredMatrix) -> Iterator[bytes]:
    with tensor.path.open("rb") as file:
        file.seek(tensor.offset_bytes)
        for start in range(0, tensor.size_bytes, BLOCK_BYTES):
            yield file.read(min(BLOCK_BYTES, tensor.size_bytes - start))
