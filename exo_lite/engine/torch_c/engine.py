"""The engine of torch and our C kernels. This module is imported without torch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from exo_lite.domain.engine import Detected
from exo_lite.domain.footprint import Footprint
from exo_lite.domain.load_options import LoadOptions
from exo_lite.domain.model_spec import ModelSpec
from exo_lite.domain.shard import Shard
from exo_lite.engine.torch_c.footprint import footprint

if TYPE_CHECKING:
    from exo_lite.engine.torch_c.loaded_shard import TorchShard


class TorchC:
    """Fits engine.Engine."""

    name = "torch-c"

    def footprint(self, spec: ModelSpec, options: LoadOptions) -> Footprint:
        return footprint(spec, options)

    def detect(self, wanted: str) -> Detected:
        from exo_lite.engine.torch_c import detection

        return detection.detect(wanted)

    def prepare(self, num_threads: int) -> None:
        from exo_lite.engine.torch_c import loading

        loading.use_threads(num_threads)

    def load(
        self,
        model_dir: Path,
        spec: ModelSpec,
        shard: Shard,
        options: LoadOptions,
        *,
        device: str,
        on_progress: Callable[[float], None],
    ) -> TorchShard:
        from exo_lite.engine.torch_c import loading

        return loading.load(model_dir, spec, shard, options, device=device, on_progress=on_progress)
