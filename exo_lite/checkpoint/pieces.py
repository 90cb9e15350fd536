"""The pieces of a model that a node can need by themselves: the embedding, each layer, the output head.

Every tensor of the model is in one piece. A piece's hash is that of its tensors' names, types, shapes and bytes, and
does not depend on how they are spread over files: two nodes have the same layer if its hashes are equal.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

from exo_lite.checkpoint.safetensors_file import TensorEntry
from exo_lite.checkpoint.tensor_names import EMBEDDING_TENSOR, LM_HEAD_TENSOR, NORM_TENSOR, Shape, layer_tensors
from exo_lite.domain.model_spec import ModelSpec
from exo_lite.domain.shard import Shard

EMBEDDING_PIECE = "embedding"
LM_HEAD_PIECE = "head"


@dataclass(frozen=True, slots=True)
class PieceTensor:
    """One tensor of a piece: where its bytes lie, and their SHA-256 in hexadecimal."""

    entry: TensorEntry
    sha256: str


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a model, its tensors in the order of loading."""

    name: str
    tensors: tuple[PieceTensor, ...]

    @property
    def size_bytes(self) -> int:
        return sum(tensor.entry.size_bytes for tensor in self.tensors)

    @property
    def sha256(self) -> str:
        """The hash of the content, in hexadecimal."""
        described = [[one.entry.name, one.entry.dtype, list(one.entry.shape), one.sha256] for one in self.tensors]
        return hashlib.sha256(json.dumps(described, separators=(",", ":")).encode()).hexdigest()


def layer_piece(layer: int) -> str:
    """Name the piece of one decoder layer."""
    return f"layer-{layer:05d}"


def expected_pieces(spec: ModelSpec) -> dict[str, dict[str, Shape]]:
    """The tensors of each piece of a model, in the order of loading."""
    outer = (spec.vocab_size, spec.hidden_size)
    lm_head = {} if spec.tie_word_embeddings else {LM_HEAD_TENSOR: outer}
    return {
        EMBEDDING_PIECE: {EMBEDDING_TENSOR: outer},
        **{layer_piece(layer): layer_tensors(spec, layer) for layer in range(spec.n_layers)},
        LM_HEAD_PIECE: {NORM_TENSOR: (spec.hidden_size,), **lm_head},
    }


def shard_pieces(spec: ModelSpec, shard: Shard) -> list[str]:
    """Name the pieces that a shard needs. The last one of a tied model needs the embedding too."""
    needs_embedding = shard.is_first or (shard.is_last and spec.tie_word_embeddings)
    return [
        *([EMBEDDING_PIECE] if needs_embedding else []),
        *(layer_piece(layer) for layer in shard.layers),
        *([LM_HEAD_PIECE] if shard.is_last else []),
    ]
