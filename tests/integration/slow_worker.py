"""The worker program on a machine so slow that every step with work takes SLOW_STEP_S seconds more."""

from __future__ import annotations

import os
import time

from exo_lite.domain.step import StepMessage
from exo_lite.pipeline.stage import Stage, StageOutput
from exo_lite.worker.main import main

compute = Stage.compute


def compute_slowly(self: Stage, message: StepMessage) -> StageOutput:
    if message.step.chunks:
        time.sleep(float(os.environ["SLOW_STEP_S"]))
    return compute(self, message)


if __name__ == "__main__":
    Stage.compute = compute_slowly  # type: ignore[method-assign]
    main()
