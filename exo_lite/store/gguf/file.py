"""A GGUF file's metadata and tensors with types that were checked. The one place where the library's faults are caught.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NoReturn

import gguf
import numpy as np
import numpy.typing as npt

from exo_lite.domain.errors import InvalidModel, UnsupportedModel

MAX_READS = 8_000_000
"""The number of single values; the largest vocabularies have about 3 million. More would fill the memory."""

_LIBRARY_FAULTS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    MemoryError,
    RecursionError,
    TypeError,
    ValueError,
)


@dataclass(frozen=True, slots=True)
class GGUFTensor:
    """`data` is mapped from the file, quantized blocks as bytes; `shape` is that of the values, outermost first."""

    name: str
    shape: tuple[int, ...]
    type: gguf.GGMLQuantizationType
    data: npt.NDArray[Any]


class GGUFFile:
    """Metadata by key, each accessor raising InvalidModel for a value of another kind."""

    def __init__(self, name: str, fields: Mapping[str, object], tensors: Mapping[str, GGUFTensor]) -> None:
        self.name = name
        self.tensors = tensors
        self._fields = fields

    def with_tensors(self, tensors: Mapping[str, GGUFTensor]) -> GGUFFile:
        """The same metadata over other tensors."""
        return GGUFFile(self.name, self._fields, tensors)

    def has(self, key: str) -> bool:
        return key in self._fields

    def text(self, key: str, default: str | None = None) -> str:
        value = self._value(key, default)
        return value if isinstance(value, str) else self._refuse(key, "text", value)

    def count(self, key: str, default: int | None = None) -> int:
        """A whole number from 0 on."""
        value = self._value(key, default)
        if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
            return value
        self._refuse(key, "a whole number", value)

    def number(self, key: str, default: float | None = None) -> float:
        """A finite number. float32 values come as the shortest decimal that means them, as configs have them."""
        value = self._value(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not np.isfinite(value):
            self._refuse(key, "a number", value)
        return float(str(np.float32(value)))

    def boolean(self, key: str, default: bool) -> bool:
        value = self._value(key, default)
        return value if isinstance(value, bool) else self._refuse(key, "true or false", value)

    def texts(self, key: str) -> list[str]:
        return [one if isinstance(one, str) else self._refuse(key, "a list of texts", one) for one in self._list(key)]

    def numbers(self, key: str) -> list[float]:
        values = self._list(key)
        return [float(one) if isinstance(one, int | float) else self._refuse(key, "numbers", one) for one in values]

    def whole_numbers(self, key: str) -> list[int]:
        values = self._list(key)
        return [one if isinstance(one, int) else self._refuse(key, "whole numbers", one) for one in values]

    def _list(self, key: str) -> list[object]:
        value = self._value(key, None)
        return value if isinstance(value, list) else self._refuse(key, "a list", value)

    def _value(self, key: str, default: object) -> object:
        value = self._fields.get(key, default)
        if value is None:
            raise InvalidModel(f"{self.name}: the metadata lacks {key}")
        return value

    def _refuse(self, key: str, kind: str, value: object) -> NoReturn:
        raise InvalidModel(f"{self.name}: {key} must be {kind}, not {str(value)[:80]!r}")


def open_gguf_file(path: Path) -> GGUFFile:
    """Read the metadata and map the tensors. Raises InvalidModel, UnsupportedModel, OSError."""
    with gguf_faults(path.name):
        reader = _BoundedReader(path)
        fields = {key: field.contents() for key, field in reader.fields.items()}
        tensors = {tensor.name: _tensor(tensor) for tensor in reader.tensors}
    if reader.byte_order == "S":
        raise UnsupportedModel(f"{path.name} is of the other byte order: get the little-endian file")
    return GGUFFile(path.name, fields, tensors)


@contextmanager
def gguf_faults(name: str) -> Iterator[None]:
    """Turn the library's errors over a malformed file into InvalidModel."""
    try:
        with np.errstate(over="raise"):
            yield
    except NotImplementedError as error:
        raise UnsupportedModel(f"{name}: {error}: get a file with another quantization") from error
    except _LIBRARY_FAULTS as error:
        raise InvalidModel(f"{name} is truncated, damaged or no GGUF file ({error}): fetch it again") from error


class _BoundedReader(gguf.GGUFReader):
    """The library cuts reads off at the end of the file in silence, and so would walk lying counts for ever."""

    _num_reads = 0

    def _get(
        self,
        offset: int,
        dtype: npt.DTypeLike,
        count: int = 1,
        override_order: Literal["I", "S", "<"] | None = None,
    ) -> npt.NDArray[Any]:
        end = int(offset) + np.dtype(dtype).itemsize * int(count)
        if end > len(self.data):
            raise ValueError(f"it should go on to byte {end} at least, and ends at {len(self.data)}")
        self._num_reads += 1
        if self._num_reads > MAX_READS:
            raise ValueError(f"its metadata has more than {MAX_READS} values")
        return super()._get(offset, dtype, count, override_order)


def _tensor(tensor: gguf.ReaderTensor) -> GGUFTensor:
    shape = tuple(int(size) for size in reversed(tensor.shape.tolist()))  # the file has the innermost first
    return GGUFTensor(tensor.name, shape, tensor.tensor_type, tensor.data)
