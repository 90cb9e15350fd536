"""A shard as its options ask for it: in floats or in integers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from exo_lite.domain.load_options import LoadOptions
from exo_lite.domain.model_spec import ModelSpec
from exo_lite.domain.shard import Shard
from exo_lite.engine.torch_c.integer_shard import IntegerShard
from exo_lite.engine.torch_c.integer_weights import load_integer_shard
from exo_lite.engine.torch_c.llama import LlamaShard
from exo_lite.engine.torch_c.weights import load_shard


def open_shard(
    model_dir: Path,
    spec: ModelSpec,
    shard: Shard,
    options: LoadOptions,
    *,
    device: str,
    on_progress: Callable[[float], None],
) -> LlamaShard | IntegerShard:
    """Read the weights that `options` ask for. Raises InvalidModel, UnsupportedModel, InvalidShard."""
    if options.quant == "none":
        return load_shard(model_dir, spec, shard, dtype=options.dtype, device=device, on_progress=on_progress)
    return load_integer_shard(
        model_dir,
        spec,
        shard,
        kind="int4" if options.quant == "int4" else "int8",
        activation_bytes=1 if options.quant == "w8a8" else 2,
        dtype=options.dtype,
        device=device,
        on_progress=on_progress,
    )
