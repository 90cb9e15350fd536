"""Reading a tensor's bytes, without ever mapping a weight into memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

from exo_lite.checkpoint.safetensors_file import TensorEntry
from exo_lite.domain.errors import InvalidModel


def read_blocks(entry: TensorEntry, scratch: memoryview) -> Iterator[memoryview]:
    """The tensor's bytes in order, as many at a time as `scratch` (of bytes) holds. Raises InvalidModel.

    A block lies in `scratch` and is valid until the next one. Plain reads, since pages of a mapped file would count as
    this process's memory.
    """
    remaining_bytes = entry.size_bytes
    with _opened(entry) as file:
        while remaining_bytes:
            block = scratch[:remaining_bytes]
            _read_exactly(file, block, entry)
            remaining_bytes -= len(block)
            yield block


def read_whole(entry: TensorEntry, target: memoryview) -> None:
    """Fill `target` (bytes, as long as the tensor) with the tensor's bytes. Raises InvalidModel."""
    with _opened(entry) as file:
        _read_exactly(file, target, entry)


@contextmanager
def _opened(entry: TensorEntry) -> Iterator[BinaryIO]:
    """The entry's file, at the tensor's first byte."""
    try:
        with entry.path.open("rb", buffering=0) as file:
            file.seek(entry.offset_bytes)
            yield file
    except OSError as error:
        raise InvalidModel(f"{entry.path}: {entry.name} cannot be read ({error})") from error


def _read_exactly(file: BinaryIO, target: memoryview, entry: TensorEntry) -> None:
    while target:
        num_read = file.readinto(target)  # type: ignore[attr-defined]  # raw files have it, the protocol does not say so
        if not num_read:
            raise InvalidModel(f"{entry.path}: ends within tensor {entry.name}; the file is not complete")
        target = target[num_read:]
