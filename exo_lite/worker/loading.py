"""Loading: from a model's folder to a stage that is ready to compute."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from exo_lite.catalog.hf_config import spec_from_config
from exo_lite.domain.errors import InvalidModel
from exo_lite.domain.model_spec import ModelSpec
from exo_lite.domain.worker import WorkerConfig
from exo_lite.engine.engine import Engine
from exo_lite.pipeline.stage import Stage


def _read_spec(model_dir: Path) -> ModelSpec:
    path = model_dir / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InvalidModel(f"{path} cannot be read: {error}") from error
    return spec_from_config(config)


def load_stage(engine: Engine, config: WorkerConfig, on_progress: Callable[[float], None]) -> Stage:
    """Blocks for as long as reading the weights takes. Raises InvalidModel."""
    model_dir = Path(config.model_dir)
    spec = _read_spec(model_dir)
    options, device = config.options, config.device
    return Stage(engine.load(model_dir, spec, config.shard, options, device=device, on_progress=on_progress))
