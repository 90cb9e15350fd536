"""The engines that there are: whoever adds one adds a line here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache

from exo_lite.domain.footprint import Footprint
from exo_lite.domain.load_options import LoadOptions
from exo_lite.domain.model_spec import ModelSpec
from exo_lite.engine.engine import Engine
from exo_lite.engine.torch_c.engine import TorchC

TORCH_C = TorchC()
ENGINES: Mapping[str, Engine] = {engine.name: engine for engine in (TORCH_C,)}


def footprints(
    spec: ModelSpec, options: LoadOptions, engines: Mapping[str, Engine] = ENGINES
) -> Callable[[str], Footprint]:
    """Return what a model takes, by the name of the engine, which must be in the table."""
    return lru_cache(lambda name: engines[name].footprint(spec, options))
