"""The parts that the generating routes of all dialects need."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from exo_lite.api.daemon_api import DaemonApi
from exo_lite.api.metrics import RequestMetrics
from exo_lite.api.text_work import TextWork
from exo_lite.api.usage import Clock


@dataclass(frozen=True, slots=True)
class GenerationContext:
    """The daemon, and what measures and reads for it. `keep_alive_s` is the longest silence in a stream."""

    daemon: DaemonApi
    metrics: RequestMetrics
    clock: Clock = time.monotonic
    keep_alive_s: float = 10.0
    text_work: TextWork = field(default_factory=TextWork)
