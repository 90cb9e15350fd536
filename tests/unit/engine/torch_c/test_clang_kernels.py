"""The kernels under clang, which is what a Mac has: it takes them for each processor, and gives the bits that GCC does.

test_integer_shard.py compares the integer engine's layers, beside those of other instruction sets.
"""

from __future__ import annotations

import ctypes
import subprocess
import sys
from importlib import resources
from pathlib import Path

import pytest
import torch

from exo_lite.engine.torch_c.native import build
from exo_lite.engine.torch_c.native.build import load_library
from exo_lite.engine.torch_c.native.constants import as_flags
from exo_lite.engine.torch_c.native.few_rows import FewRows
from exo_lite.engine.torch_c.native.kernels import native_library, to_int4
from exo_lite.engine.torch_c.native.layout import STRUCTS, CLinear, check_sizes, declare
from tests.unit.engine.torch_c.clang import cross_clang, write_clang

LINUX = {"x86_64": ("x86_64-linux-musl", "generic-musl"), "aarch64": ("aarch64-linux-musl", "generic-musl")}
PROCESSORS = {
    "avx512": [*cross_clang("x86_64-linux-musl", LINUX["x86_64"]), "-march=sapphirerapids"],
    "avx2": [*cross_clang("x86_64-linux-musl", LINUX["x86_64"]), "-march=haswell"],
    "neon": [*cross_clang("aarch64-linux-musl", LINUX["aarch64"]), "-mcpu=cortex-a76"],
    "plain C": [*cross_clang("aarch64-linux-musl", LINUX["aarch64"]), "-mcpu=cortex-a53"],
    "mac": [*cross_clang("aarch64-macos", ["any-darwin-any"]), "-mcpu=apple-m1"],
}


@pytest.fixture
def libraries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[ctypes.CDLL]:
    """This machine's own kernels and clang's."""
    own = native_library()
    assert own is not None, "the suite needs a C compiler"
    monkeypatch.setenv("CC", str(write_clang(tmp_path)))
    of_clang = load_library()
    assert of_clang is not None
    declare(of_clang)
    return [own, of_clang]


@pytest.mark.parametrize("processor", PROCESSORS)
def test_clang_takes_them_for_every_processor(processor: str):
    flags = ("-std=gnu11", "-fsyntax-only", "-fopenmp", "-Wall", "-Werror", "-Wno-psabi", *as_flags())
    source = resources.files(build.__package__)
    for name in build.C_FILES:
        command = [*PROCESSORS[processor], *flags, str(source / name)]
        found = subprocess.run(command, capture_output=True, text=True, check=False)
        assert found.returncode == 0, found.stderr


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_products_of_floats_are_the_same_bits(libraries: list[ctypes.CDLL], dtype: torch.dtype):
    x, weight = torch.randn(5, 192).to(dtype), torch.randn(203, 192).to(dtype)
    own, of_clang = (FewRows(library, 8)(x, weight, weight[:, 0].contiguous()) for library in libraries)
    assert torch.equal(own, of_clang)


def test_int4_is_the_same_bits(libraries: list[ctypes.CDLL]):
    units = (torch.randn(40, 96) * 30).clamp_(-119, 119)
    own, of_clang = (to_int4(library, units) for library in libraries)
    assert all(torch.equal(*pair) for pair in zip(own, of_clang, strict=True))


def test_structs_have_the_sizes_that_python_thinks(libraries: list[ctypes.CDLL], monkeypatch: pytest.MonkeyPatch):
    for library in libraries:
        check_sizes(library)
    monkeypatch.setitem(STRUCTS, "row", CLinear)
    with pytest.raises(TypeError, match=r"el_row has 8 bytes in kernels\.h, CLinear 56 here"):
        check_sizes(libraries[0])


def test_without_openmp_one_thread_computes_and_it_is_told(
    libraries: list[ctypes.CDLL], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    """Clang gets no OpenMP on Linux: its threads would not be those of torch."""
    own, of_clang = libraries
    assert own.el_has_threads()
    if sys.platform == "linux":
        assert not of_clang.el_has_threads()
        monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
        native_library.__wrapped__()
        assert "compute on one thread" in caplog.text


def test_a_compiler_that_cannot_build_them_is_named_with_its_first_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setenv(build.CACHE_VARIABLE, str(tmp_path))
    monkeypatch.setattr(build, "FLAGS", tuple(flag for flag in build.FLAGS if "EL_TILE" not in flag))
    assert load_library() is None
    assert "sizes come from constants.py" in caplog.records[-1].__dict__["cause"]
    assert "GCC from 11 on" in caplog.records[-1].__dict__["fix"]
