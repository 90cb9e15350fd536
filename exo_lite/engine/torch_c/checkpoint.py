"""A folder of safetensors files: where each tensor lies, read without ever mapping a weight into memory."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from exo_lite.domain.errors import InvalidModel, UnsupportedModel
from exo_lite.domain.model_spec import DTYPE_BYTES, DType

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
_DTYPES: dict[str, DType] = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """One tensor's bytes in a file. `dtype` is the file's own name for it, such as BF16."""

    path: Path
    name: str
    dtype: str
    shape: tuple[int, ...]
    offset_bytes: int

    @property
    def num_elements(self) -> int:
        return math.prod(self.shape)

    @property
    def stored_dtype(self) -> DType:
        return _DTYPES[self.dtype]

    @property
    def size_bytes(self) -> int:
        return self.num_elements * DTYPE_BYTES[self.stored_dtype]


class Checkpoint:
    """Finds tensors by name. Opens only the files whose tensors are asked for. Raises InvalidModel."""

    def __init__(self, model_dir: Path) -> None:
        self._model_dir = model_dir
        self._headers: dict[str, Mapping[str, TensorEntry]] = {}
        self._files = self._find_files()

    @property
    def names(self) -> frozenset[str]:
        return frozenset(self._files)

    def entry(self, name: str, shape: tuple[int, ...]) -> TensorEntry:
        """The tensor of this name, of this shape and a type that can be read. Raises InvalidModel otherwise."""
        file_name = self._files.get(name)
        if file_name is None:
            raise InvalidModel(f"{self._model_dir}: no tensor {name}; expected one of shape {list(shape)}")
        entry = self._header(file_name).get(name)
        if entry is None:
            raise InvalidModel(f"{self._model_dir / file_name}: no tensor {name}, which {INDEX_FILE} says it holds")
        _check(entry, shape)
        return entry

    def _find_files(self) -> dict[str, str]:
        if (self._model_dir / SINGLE_FILE).is_file():
            return dict.fromkeys(self._header(SINGLE_FILE), SINGLE_FILE)
        index = self._model_dir / INDEX_FILE
        if not index.is_file():
            raise InvalidModel(f"{self._model_dir}: neither {SINGLE_FILE} nor {INDEX_FILE} is there")
        return _weight_map(index)

    def _header(self, file_name: str) -> Mapping[str, TensorEntry]:
        if file_name not in self._headers:
            self._headers[file_name] = read_header(self._model_dir / file_name)
        return self._headers[file_name]


def read_blocks(entry: TensorEntry, scratch: Tensor) -> Iterator[Tensor]:
    """The tensor's elements in order, flat, a block at a time. Raises InvalidModel.

    A block lies in `scratch` (uint8, a multiple of 4 bytes long) and is valid until the next one. Plain reads, since
    pages of a mapped file would count as this process's memory.
    """
    dtype = _DTYPES[entry.dtype]
    remaining_bytes = entry.num_elements * DTYPE_BYTES[dtype]
    with _opened(entry) as file:
        while remaining_bytes:
            block = scratch[:remaining_bytes]
            _read_exactly(file, block, entry)
            remaining_bytes -= block.numel()
            yield block.view(getattr(torch, dtype))


def read_whole(entry: TensorEntry, target: Tensor) -> None:
    """The tensor's bytes into `target`, contiguous and as long. Raises InvalidModel."""
    with _opened(entry) as file:
        _read_exactly(file, target.view(-1).view(torch.uint8), entry)


@contextmanager
def _opened(entry: TensorEntry) -> Iterator[BinaryIO]:
    """Its file, at its first byte."""
    try:
        with entry.path.open("rb", buffering=0) as file:
            file.seek(entry.offset_bytes)
            yield file
    except OSError as error:
        raise InvalidModel(f"{entry.path}: {entry.name} cannot be read ({error})") from error


def _read_exactly(file: BinaryIO, block: Tensor, entry: TensorEntry) -> None:
    target = memoryview(block.numpy().data)
    while target:
        num_read = file.readinto(target)  # type: ignore[attr-defined]  # raw files have it, the protocol does not say so
        if not num_read:
            raise InvalidModel(f"{entry.path}: ends within tensor {entry.name}; the file is not complete")
        target = target[num_read:]


def _weight_map(index: Path) -> dict[str, str]:
    try:
        content = json.loads(index.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise InvalidModel(f"{index}: not readable as JSON ({error})") from error
    weight_map = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(weight_map, dict):
        raise InvalidModel(f"{index}: no weight_map, which says the file of each tensor")
    for file_name in weight_map.values():
        if not isinstance(file_name, str) or Path(file_name).name != file_name:
            raise InvalidModel(f"{index}: {file_name!r} is not the name of a file in its own folder")
    return weight_map


def read_header(path: Path) -> dict[str, TensorEntry]:
    """Where each tensor of a file lies: the library checks the header, ranges and length, then the offsets are read."""
    try:
        with safe_open(path, framework="pt"):
            pass
        with path.open("rb") as file:
            length_bytes = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length_bytes))
    except FileNotFoundError as error:
        raise InvalidModel(f"{path}: the file is missing") from error
    except (SafetensorError, OSError, ValueError) as error:
        raise InvalidModel(
            f"{path}: not a sound safetensors file ({error}); it may be incomplete: fetch it again"
        ) from error
    start = 8 + length_bytes
    return {
        name: TensorEntry(path, name, tensor["dtype"], tuple(tensor["shape"]), start + tensor["data_offsets"][0])
        for name, tensor in header.items()
        if name != "__metadata__"
    }


def _check(entry: TensorEntry, shape: tuple[int, ...]) -> None:
    if entry.shape != shape:
        raise InvalidModel(
            f"{entry.path}: tensor {entry.name} has the shape {list(entry.shape)}, the config asks for {list(shape)}"
        )
    if entry.dtype not in _DTYPES:
        raise UnsupportedModel(
            f"{entry.path}: tensor {entry.name} is of type {entry.dtype}; only {', '.join(_DTYPES)} can be read"
        )
