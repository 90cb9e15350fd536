"""Short passes over rows, before and after the layers.

Torch gives up the interpreter's lock for each of its operations, and what another thread then does with it, such as
handing out the tokens of the step before, takes longer than the pass. These keep the lock.
"""

from __future__ import annotations

import ctypes
from functools import lru_cache

import torch
from torch import Tensor

from exo_lite.engine.torch_c.native.kernels import native_library
from exo_lite.engine.torch_c.native.layout import FLOAT_TYPES, declare, pointer

MAX_NUMBERS = 2**21
"""The size of a tensor that is looked at with the lock held: a millisecond's worth."""


@lru_cache(maxsize=1)
def _library() -> ctypes.PyDLL | None:
    library = native_library()
    if library is None:
        return None
    keeping_lock = ctypes.PyDLL(library._name)
    declare(keeping_lock)
    return keeping_lock


def is_quick(tensor: Tensor) -> bool:
    """Say whether the functions below take a tensor: contiguous float32 on the CPU, and small."""
    is_plain = tensor.dtype is torch.float32 and tensor.device.type == "cpu" and tensor.is_contiguous()
    return is_plain and 0 < tensor.numel() <= MAX_NUMBERS and _library() is not None


def all_finite(tensor: Tensor) -> bool:
    """Say whether no element is NaN or infinite. The tensor `is_quick`."""
    return bool(_require().el_all_finite(pointer(tensor), tensor.numel()))


def greatest(rows: Tensor) -> list[int]:
    """Return the index of each row's greatest element, the first among equals. rows: finite, [rows, n], `is_quick`."""
    num_rows, size = rows.shape
    ids = (ctypes.c_int64 * num_rows)()
    _require().el_greatest(pointer(rows), num_rows, size, ids)
    return list(ids)


def embed(token_ids: Tensor, table: Tensor) -> Tensor | None:
    """Rows of a table [size, width] as float32; None for anything but int64 [tokens], each with its row in the table.

    Both on the processor, the table in order.
    """
    if token_ids.dtype is not torch.int64 or token_ids.dim() != 1 or not token_ids.is_contiguous():
        return None
    (num_rows,), (size, width) = token_ids.shape, table.shape
    out = torch.empty((num_rows, width))
    is_there = _require().el_embed(
        *(pointer(token_ids), num_rows, pointer(table), FLOAT_TYPES[table.dtype], size, width, pointer(out))
    )
    return out if is_there else None


def _require() -> ctypes.PyDLL:
    library = _library()
    assert library is not None
    return library
