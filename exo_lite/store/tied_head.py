"""Whether the head that a checkpoint carries beside a tied embedding is the same matrix."""

from __future__ import annotations

from collections.abc import Iterator

from exo_lite.store.hf_weights import StoredTensor
from exo_lite.store.source import COPY_BYTES


def is_same_matrix(one: StoredTensor, other: StoredTensor) -> bool:
    """Whether two tensors are equal byte for byte. Raises OSError."""
    if (one.dtype, one.shape) != (other.dtype, other.shape):
        return False
    return all(first == second for first, second in zip(_blocks(one), _blocks(other), strict=True))


def _blocks(tensor: StoredTensor) -> Iterator[bytes]:
    with tensor.file.open("rb") as file:
        file.seek(tensor.offset_bytes)
        for start in range(0, tensor.size_bytes, COPY_BYTES):
            yield file.read(min(COPY_BYTES, tensor.size_bytes - start))
