"""A stored tensor's bytes as torch's."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from exo_lite.checkpoint import tensor_bytes
from exo_lite.checkpoint.safetensors_file import TensorEntry
from exo_lite.engine.torch_c.dtypes import TORCH_DTYPES


def read_blocks(entry: TensorEntry, scratch: Tensor) -> Iterator[Tensor]:
    """The tensor's elements in order, flat, a block at a time, each valid until the next one. Raises InvalidModel.

    scratch: uint8, a multiple of 4 bytes long; a block lies in it.
    """
    dtype = TORCH_DTYPES[entry.stored_dtype]
    for block in tensor_bytes.read_blocks(entry, _bytes_of(scratch)):
        yield scratch[: len(block)].view(dtype)


def read_whole(entry: TensorEntry, target: Tensor) -> None:
    """Fill `target`, contiguous and as long, with the tensor's bytes. Raises InvalidModel."""
    tensor_bytes.read_whole(entry, _bytes_of(target))


def _bytes_of(tensor: Tensor) -> memoryview:
    return memoryview(tensor.view(-1).view(torch.uint8).numpy().data)
