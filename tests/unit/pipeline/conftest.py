from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from exo_lite.checkpoint.tensor_names import expected_tensors
from exo_lite.domain.ids import ModelId
from exo_lite.domain.model_spec import ModelSpec
from exo_lite.domain.shard import Shard
from exo_lite.engine.torch_c.loaded_shard import TorchShard
from exo_lite.engine.torch_c.weights import load_shard
from exo_lite.pipeline.stage import Stage

N_LAYERS = 3
SPEC = ModelSpec(
    model_type="llama",
    num_hidden_layers=N_LAYERS,
    hidden_size=32,
    intermediate_size=48,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=8,
    vocab_size=97,
    max_position_embeddings=64,
    dtype="float32",
)
NUM_SLOTS = 3
CONTEXT_LENGTH = 40


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with random weights of SPEC."""
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(3)
    folder = tmp_path_factory.mktemp("tiny")
    tensors = {
        name: torch.randn(shape, generator=generator) * 0.25 + (1.0 if "norm" in name else 0.0)
        for name, shape in expected_tensors(SPEC, Shard(ModelId("tiny"), 0, N_LAYERS - 1, N_LAYERS)).items()
    }
    save_file(tensors, folder / "model.safetensors")
    return folder


@pytest.fixture
def make_stage(tiny_checkpoint: Path) -> Callable[..., Stage]:
    """Makes a stage of the tiny model from the first and last layer that it holds."""

    def make(start_layer: int = 0, end_layer: int = N_LAYERS - 1) -> Stage:
        part = Shard(ModelId("tiny"), start_layer, end_layer, N_LAYERS)
        shard = load_shard(
            tiny_checkpoint, SPEC, part, dtype="float32", device="cpu", on_progress=lambda fraction: None
        )
        return Stage(TorchShard(shard, shard.new_cache(NUM_SLOTS, CONTEXT_LENGTH)))

    return make
