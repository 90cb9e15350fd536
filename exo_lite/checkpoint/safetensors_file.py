"""One safetensors file: the header that says where each tensor lies, read and written.

Format: https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open

from exo_lite.checkpoint.tensor_names import Shape
from exo_lite.domain.errors import InvalidModel
from exo_lite.domain.model_spec import DTYPE_BYTES, DType

STORED_DTYPES: dict[str, DType] = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}
"""The file's name of each type that weights can be read in."""
DTYPE_NAMES: dict[DType, str] = {dtype: name for name, dtype in STORED_DTYPES.items()}

_LENGTH_BYTES = 8
_ALIGNMENT_BYTES = 8


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """One tensor's bytes in a file. `dtype` is the file's own name for it, such as BF16."""

    path: Path
    name: str
    dtype: str
    shape: Shape
    offset_bytes: int
    size_bytes: int

    @property
    def num_elements(self) -> int:
        return math.prod(self.shape)

    @property
    def stored_dtype(self) -> DType:
        """The type of a tensor that can be read as weights. Raises KeyError for any other."""
        return STORED_DTYPES[self.dtype]


@dataclass(frozen=True, slots=True)
class TensorForm:
    """A tensor's type and shape, as a header declares them."""

    name: str
    dtype: DType
    shape: Shape

    @property
    def size_bytes(self) -> int:
        return math.prod(self.shape) * DTYPE_BYTES[self.dtype]


def read_header(path: Path, *, where: str) -> dict[str, TensorEntry]:
    """Find where each tensor of a file lies; `where` names the file in errors. Reads no weights.

    The library checks the header, the ranges in it and the file's length; then the offsets are read. Raises
    InvalidModel, OSError.
    """
    try:
        with safe_open(path, framework="numpy"):
            pass
        with path.open("rb") as file:
            length_bytes = int.from_bytes(file.read(_LENGTH_BYTES), "little")
            header = json.loads(file.read(length_bytes))
    except FileNotFoundError as error:
        raise InvalidModel(f"{where} is missing: fetch it as well") from error
    except (SafetensorError, ValueError, RecursionError) as error:
        raise InvalidModel(
            f"{where} is truncated or damaged, not a sound safetensors file ({error}): fetch it again"
        ) from error
    start = _LENGTH_BYTES + length_bytes
    return {
        name: TensorEntry(path, name, one["dtype"], tuple(one["shape"]), start + begin, end - begin)
        for name, one in header.items()
        if name != "__metadata__"
        for begin, end in (one["data_offsets"],)
    }


def header_bytes(tensors: Iterable[TensorForm]) -> bytes:
    """The header of a file that holds these tensors one behind the other. The same tensors give the same bytes."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}  # transformers asks for it
    offset = 0
    for tensor in tensors:
        end = offset + tensor.size_bytes
        header[tensor.name] = {
            "dtype": DTYPE_NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [offset, end],
        }
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    padded = text.ljust(-(-len(text) // _ALIGNMENT_BYTES) * _ALIGNMENT_BYTES)  # so that the tensors are aligned
    return len(padded).to_bytes(_LENGTH_BYTES, "little") + padded
