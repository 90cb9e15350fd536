"""The pieces of a folder of weights: found by the headers of its files, hashed by reading all of them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

from exo_lite.checkpoint.checkpoint import Checkpoint
from exo_lite.checkpoint.pieces import Piece, PieceTensor, expected_pieces
from exo_lite.checkpoint.safetensors_file import TensorEntry
from exo_lite.checkpoint.tensor_bytes import read_blocks
from exo_lite.domain.model_spec import ModelSpec

BLOCK_BYTES = 1 << 20
"""Read at once: large enough for the reads to cost little, small enough to be hashed from the processor's cache."""


def hash_pieces(model_dir: Path, spec: ModelSpec) -> tuple[Piece, ...]:
    """Read every weight of a model once, at about a GiB per second. Raises InvalidModel."""
    scratch = memoryview(bytearray(BLOCK_BYTES))
    return find_pieces(model_dir, spec, lambda entry: _hash(entry, scratch))


def find_pieces(model_dir: Path, spec: ModelSpec, hash_of: Callable[[TensorEntry], str]) -> tuple[Piece, ...]:
    """Find a model's pieces, with hashes from elsewhere; reads headers alone. Raises InvalidModel."""
    checkpoint = Checkpoint(model_dir)

    def tensor(name: str, shape: tuple[int, ...]) -> PieceTensor:
        entry = checkpoint.entry(name, shape)
        return PieceTensor(entry, hash_of(entry))

    return tuple(
        Piece(name, tuple(tensor(one, shape) for one, shape in tensors.items()))
        for name, tensors in expected_pieces(spec).items()
    )


def _hash(entry: TensorEntry, scratch: memoryview) -> str:
    digest = hashlib.sha256()
    for block in read_blocks(entry, scratch):
        digest.update(block)
    return digest.hexdigest()
