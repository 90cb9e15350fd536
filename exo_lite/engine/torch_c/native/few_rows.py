"""Linears of float weights for few rows: torch's kernels are made for many, and leave memory's bandwidth unused."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import cycle, islice

import torch
import torch.nn.functional as F  # noqa: N812 - the name that every torch program gives it
from torch import Tensor

from exo_lite.engine.torch_c.native.constants import LANES
from exo_lite.engine.torch_c.native.kernels import native_library
from exo_lite.engine.torch_c.native.layout import FLOAT_TYPES, CFloatLinear, pointer

UNIT = 2 * LANES
"""Inputs come in multiples of it."""
CANDIDATES = (1, 2, 4, 8)
NUM_MEASUREMENTS = 7
SMALL_BYTES = 8 * 2**20
SAMPLE_BYTES = 2**20
"""How much of a matrix is measured: torch makes copies of bfloat16 ones."""


class FewRows:
    """x Wᵀ + b with float32 sums that are rounded once, up to `max_rows` rows of x; `is_for` says whether it serves."""

    def __init__(self, library: ctypes.CDLL, max_rows: int) -> None:
        self.library = library
        self.max_rows = max_rows

    def is_for(self, x: Tensor, weight: Tensor) -> bool:
        return x.shape[0] <= self.max_rows and weight.shape[1] % UNIT == 0

    def __call__(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """x: [rows, k], weight: [n, k], bias: [n], of one type. Returns [rows, n]."""
        rows = x.shape[0]
        x = x.contiguous()
        y, wide = x.new_empty((rows, weight.shape[0])), torch.empty((rows, weight.shape[0]))
        self.library.el_float_linear_rows(
            *(ctypes.byref(describe(weight, bias)), FLOAT_TYPES[weight.dtype], pointer(x), rows),
            *(pointer(wide), pointer(y), torch.get_num_threads()),
        )
        return y


def describe(weight: Tensor, bias: Tensor | None) -> CFloatLinear:
    """Valid as long as the tensors live."""
    return CFloatLinear(n=weight.shape[0], k=weight.shape[1], weight=pointer(weight), bias=pointer(bias))


def few_rows_for(weights: Sequence[Tensor]) -> FewRows | None:
    """The kernel for as many rows as it was measured to be faster than torch's with, on matrices like these, or None.

    None too for small matrices of two-byte types: sums in another order round to the other side now and then, and
    greedy answers of small models, whose likeliest tokens are often equal in such types, would part from the published
    ones.
    """
    library = native_library() if weights[0].device.type == "cpu" else None
    is_small = weights[0].dtype != torch.float32 and weights[0].nbytes < SMALL_BYTES
    if library is None or weights[0].shape[1] % UNIT or is_small:
        return None
    num_channels = max(1, SAMPLE_BYTES // (weights[0].shape[1] * weights[0].element_size()))
    samples = cycle([weight[:num_channels] for weight in weights])  # another one each time: from memory, as in a model
    max_rows = 0
    for rows in CANDIDATES:
        x = torch.randn((rows, weights[0].shape[1])).to(weights[0].dtype)
        few_rows = FewRows(library, rows)
        ours = _best_seconds(partial(_few, few_rows, x), samples)
        if ours > _best_seconds(partial(F.linear, x), samples):
            break
        max_rows = rows
    return FewRows(library, max_rows) if max_rows else None


def _few(few_rows: FewRows, x: Tensor, weight: Tensor) -> Tensor:
    return few_rows(x, weight, None)


def _best_seconds(call: Callable[[Tensor], object], samples: Iterator[Tensor]) -> float:
    times = []
    for sample in islice(samples, NUM_MEASUREMENTS):
        started = time.perf_counter()
        call(sample)
        times.append(time.perf_counter() - started)
    return min(times)
