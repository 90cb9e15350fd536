"""Headers of safetensors files: what is written is read by the library, what it writes is read here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from exo_lite.checkpoint.safetensors_file import DTYPE_NAMES, TensorForm, header_bytes, read_header
from exo_lite.domain.errors import InvalidModel
from exo_lite.domain.model_spec import DTYPE_BYTES, DType


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "a.safetensors"
    save_file({"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.ones(5, np.float16)}, path)
    return path


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_the_library_reads_the_header(tmp_path: Path, dtype: DType) -> None:
    shapes = {"a": (2, 3), "b": (5,), "c": (1, 1)}
    path = tmp_path / "a.safetensors"
    header = header_bytes(TensorForm(name, dtype, shape) for name, shape in shapes.items())
    path.write_bytes(header + bytes(12 * DTYPE_BYTES[dtype]))
    with safe_open(path, framework="pt") as file:
        assert {name: tuple(file.get_tensor(name).shape) for name in shapes} == shapes
        assert file.metadata() == {"format": "pt"}
    assert len(header) % 8 == 0


def test_a_header_is_read_back(tmp_path: Path) -> None:
    forms = [TensorForm("a", "float32", (2, 3)), TensorForm("b", "bfloat16", (5,)), TensorForm("c", "float16", (1, 1))]
    header = header_bytes(forms)
    path = tmp_path / "a.safetensors"
    path.write_bytes(header + bytes(sum(form.size_bytes for form in forms)))
    entries = read_header(path, where="a.safetensors")
    assert [(one.name, one.stored_dtype, one.shape, one.size_bytes) for one in entries.values()] == [
        (form.name, form.dtype, form.shape, form.size_bytes) for form in forms
    ]
    assert [one.offset_bytes for one in entries.values()] == [len(header), len(header) + 24, len(header) + 34]
    assert [one.dtype for one in entries.values()] == [DTYPE_NAMES[form.dtype] for form in forms]


def test_an_entry_points_at_its_bytes(file: Path) -> None:
    entry = read_header(file, where="a.safetensors")["a"]
    content = file.read_bytes()[entry.offset_bytes : entry.offset_bytes + entry.size_bytes]
    assert content == np.arange(6, dtype=np.float32).tobytes()
    assert (entry.num_elements, entry.path) == (6, file)


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-1],
        lambda data: data[:50],
        lambda data: b"",
        lambda data: data[:8] + b"\xff" * 64 + data[72:],
        lambda data: (2**62).to_bytes(8, "little") + data[8:],
        lambda data: data.replace(b'"dtype"', b'"dtyqe"', 1),
    ],
)
def test_a_damaged_file(damage: Callable[[bytes], bytes], file: Path) -> None:
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(
        InvalidModel, match=r"a\.safetensors is truncated or damaged, not a sound safetensors file .*: fetch it again"
    ):
        read_header(file, where="a.safetensors")


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(InvalidModel, match=r"a\.safetensors is missing: fetch it as well"):
        read_header(tmp_path / "a.safetensors", where="a.safetensors")
