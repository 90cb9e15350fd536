"""The check that a checkpoint's output head beside a tied embedding is the same matrix."""

from __future__ import annotations

from collections.abc import Iterator

from exo_lite.checkpoint.safetensors_file import TensorEntry
from exo_lite.checkpoint.tensor_bytes import read_blocks

BLOCK_BYTES = 4 << 20


def is_same_matrix(one: TensorEntry, other: TensorEntry) -> bool:
    """Say whether two tensors are equal byte for byte. Raises InvalidModel if one cannot be read."""
    if (one.dtype, one.shape) != (other.dtype, other.shape):
        return False
    return all(first == second for first, second in zip(_blocks(one), _blocks(other), strict=True))


def _blocks(entry: TensorEntry) -> Iterator[memoryview]:
    return read_blocks(entry, memoryview(bytearray(BLOCK_BYTES)))
