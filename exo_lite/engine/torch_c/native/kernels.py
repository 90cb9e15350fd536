"""The C kernels over tensors: float32, contiguous, on the processor."""

from __future__ import annotations

import ctypes
import logging
from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from exo_lite.domain.step import KV_BLOCK_TOKENS
from exo_lite.engine.torch_c.native.build import load_library
from exo_lite.engine.torch_c.native.constants import KINDS, LANES, QUERIES
from exo_lite.engine.torch_c.native.layout import CLinear, CModel, CRow, CScratch, check_sizes, declare, pointer
from exo_lite.engine.torch_c.quantized import QuantizedLinear
from exo_lite.engine.torch_c.weight_format import GROUP_SIZE, MAX_Q, TILE, padded

log = logging.getLogger(__name__)


@lru_cache(maxsize=1)
def native_library() -> ctypes.CDLL | None:
    """The compiled kernels of this process; None where they cannot be had."""
    library = load_library()
    if library is None:
        return None
    declare(library)
    check_sizes(library)
    if not library.el_has_threads() and torch.get_num_threads() > 1:
        fix = "install gcc, and name it with the environment variable CC"
        log.warning("the C kernels compute on one thread: the compiler has no OpenMP", extra={"fix": fix})
    return library


class NativeKernels:
    """The exact engine in C. Called by one thread at a time."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library
        self._scratch: Scratch | None = None

    def forward(self, model: CModel, hidden: Tensor, where: Sequence[tuple[int, int]]) -> None:
        """All layers over rows. hidden: [rows, hidden], in place; where: (sequence, position) of each row."""
        threads = torch.get_num_threads()
        qkv_size = (model.heads + 2 * model.kv_heads) * model.head_dim
        widest = max(model.hidden, model.heads * model.head_dim, padded(model.intermediate, LANES))
        scratch = self._scratch_for(len(where), qkv_size, widest, model.context)
        self._library.el_forward(
            *(ctypes.byref(model), pointer(hidden), len(where), c_rows(where), ctypes.byref(scratch.described)), threads
        )

    def linear(
        self, w: QuantizedLinear, x: Tensor, norm: Tensor | None, eps: float, *, activation_bytes: int = 2
    ) -> Tensor:
        """[rows, num_outputs] of x [rows, num_inputs], normed first where `norm` is given."""
        y = torch.empty((x.shape[0], w.num_outputs))
        scratch = self._scratch_for(x.shape[0], 0, w.num_inputs, 0)
        self._library.el_linear_rows(
            *(ctypes.byref(describe(w, activation_bytes)), pointer(x), pointer(norm), eps, x.shape[0], pointer(y)),
            *(ctypes.byref(scratch.described), torch.get_num_threads()),
        )
        return y

    def _scratch_for(self, rows: int, qkv_size: int, widest: int, context: int) -> Scratch:
        wanted = (rows, qkv_size, padded(widest, GROUP_SIZE), padded(context, KV_BLOCK_TOKENS), torch.get_num_threads())
        if self._scratch is None or not self._scratch.is_enough(wanted):
            before = self._scratch.sizes if self._scratch else wanted
            rows, qkv_size, widest, context, threads = (max(pair) for pair in zip(before, wanted, strict=True))
            self._scratch = Scratch((rows, qkv_size, widest, context, threads))
        return self._scratch


Sizes = tuple[int, int, int, int, int]
"""Rows, numbers of q, k and v, inputs of the widest linear, context length, threads."""


class Scratch:
    """Working memory of the kernels."""

    def __init__(self, sizes: Sizes) -> None:
        self.sizes = sizes
        rows, qkv_size, widest, context, threads = sizes
        self._tensors = {
            "qkv": torch.empty(rows * qkv_size),
            "x": torch.empty(rows * widest),
            "bytes": torch.empty(rows * widest * max(MAX_Q), dtype=torch.int8),
            "scales": torch.empty(rows),
            "sums": torch.empty(rows, dtype=torch.int32),
            "unpacked": torch.empty(threads * 2 * TILE * widest, dtype=torch.uint8),
            "scores": torch.empty(threads * QUERIES * context),
            "normed": torch.empty(threads * widest),
            "run_starts": torch.empty(rows + 1, dtype=torch.int32),
        }
        self.described = CScratch(**{name: tensor.data_ptr() for name, tensor in self._tensors.items()})

    def is_enough(self, wanted: Sizes) -> bool:
        return all(has >= wants for has, wants in zip(self.sizes, wanted, strict=True))


def to_int4(library: ctypes.CDLL, units: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """q [rows, k], steps and minima [rows, k / 32], all uint8, of weights [rows, k] in their channels' scales."""
    q = torch.empty_like(units, dtype=torch.uint8)
    steps, minima = (torch.empty((units.shape[0], units.shape[1] // GROUP_SIZE), dtype=torch.uint8) for _ in range(2))
    parts = (pointer(units), steps.numel(), pointer(q), pointer(steps), pointer(minima))
    library.el_to_int4(*parts, torch.get_num_threads())
    return q, steps, minima


def describe(w: QuantizedLinear, activation_bytes: int) -> CLinear:
    """Valid as long as the linear lives."""
    return CLinear(
        n=w.num_outputs,
        k=w.num_inputs,
        kind=KINDS[w.kind],
        activation_bytes=activation_bytes,
        weight=pointer(w.weight),
        steps=pointer(w.steps),
        minima=pointer(w.minima),
        scale=pointer(w.scale),
        bias=pointer(w.bias),
    )


def c_rows(where: Sequence[tuple[int, int]]) -> ctypes.Array[CRow]:
    return (CRow * len(where))(*(CRow(*row) for row in where))
