"""The part of the engine that runs in a worker, where torch is imported."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from exo_lite.domain.load_options import LoadOptions
from exo_lite.domain.model_spec import ModelSpec
from exo_lite.domain.shard import Shard
from exo_lite.engine.torch_c.loaded_shard import TorchShard
from exo_lite.engine.torch_c.open_shard import open_shard


def use_threads(num_threads: int) -> None:
    """Compute on so many threads, in torch and in the C kernels alike."""
    torch.set_num_threads(num_threads)


def load(
    model_dir: Path,
    spec: ModelSpec,
    shard: Shard,
    options: LoadOptions,
    *,
    device: str,
    on_progress: Callable[[float], None],
) -> TorchShard:
    """Read a shard and make its KV cache. Raises InvalidModel, UnsupportedModel, InvalidShard."""
    opened = open_shard(model_dir, spec, shard, options, device=device, on_progress=on_progress)
    return TorchShard(opened, opened.new_cache(options.num_slots, options.context_length, options.num_sequences))
