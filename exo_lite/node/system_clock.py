"""The machine's own time: the only place of the daemon that asks for it."""

from __future__ import annotations

import time


class SystemClock:
    """Fits domain.clock.Clock: asyncio's loops go by `time.monotonic` too."""

    def now(self) -> float:
        return time.monotonic()

    def wall(self) -> float:
        return time.time()
