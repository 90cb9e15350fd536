"""The places of a shard's tensors in a model's files."""

from __future__ import annotations

from pathlib import Path

from exo_lite.checkpoint.checkpoint import Checkpoint
from exo_lite.checkpoint.safetensors_file import TensorEntry
from exo_lite.checkpoint.tensor_names import (
    EMBEDDING_TENSOR,
    LM_HEAD_TENSOR,
    expected_tensors,
    unexpected_tensors,
)
from exo_lite.checkpoint.tied_head import is_same_matrix
from exo_lite.domain.errors import InvalidModel, InvalidShard
from exo_lite.domain.model_spec import ModelSpec
from exo_lite.domain.shard import Shard


def shard_entries(model_dir: Path, spec: ModelSpec, shard: Shard) -> dict[str, TensorEntry]:
    """Find every tensor of the shard by name, in the order of loading.

    Raises InvalidModel where one is missing, unfit or not asked for, InvalidShard where shard and spec differ.
    """
    if shard.n_layers != spec.n_layers:
        raise InvalidShard(f"{shard} is of {shard.n_layers} layers, the config has {spec.n_layers}")
    checkpoint = Checkpoint(model_dir)
    expected = expected_tensors(spec, shard)
    entries = {name: checkpoint.entry(name, shape) for name, shape in expected.items()}
    if unexpected := unexpected_tensors(checkpoint.names, expected, shard):
        raise InvalidModel(f"{model_dir}: holds {unexpected[0]}, which a model of its config does not have")
    if shard.is_last and spec.tie_word_embeddings:
        _check_tied(checkpoint, spec, model_dir)
    return entries


def _check_tied(checkpoint: Checkpoint, spec: ModelSpec, model_dir: Path) -> None:
    """Earlier versions dropped an lm_head that is another matrix than the embedding, and answered with other tokens."""
    shape = (spec.vocab_size, spec.hidden_size)
    if LM_HEAD_TENSOR not in checkpoint.names:
        return
    if not is_same_matrix(checkpoint.entry(EMBEDDING_TENSOR, shape), checkpoint.entry(LM_HEAD_TENSOR, shape)):
        raise InvalidModel(
            f"{model_dir}: {LM_HEAD_TENSOR} is another matrix than the embedding, but config.json says that they are "
            f"one: `exo-lite rm {model_dir.name}` and import it again, so that the matrix in the file is used"
        )
