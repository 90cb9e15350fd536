"""The clock, handed down to all code that needs the time."""

from __future__ import annotations

from typing import Protocol


class Clock(Protocol):
    """One clock per process, built at its root.

    It has no `sleep` and no `timeout`: those are asyncio's own, whose timers go by the running loop's time, and `now`
    reads the same. So a loop whose time jumps from timer to timer, with its clock handed down, makes hours of whole
    nodes pass in a moment, and not a line of them has to know.
    """

    def now(self) -> float:
        """Seconds since some moment. They only grow, and are those of the event loop's timers."""

    def wall(self) -> float:
        """Seconds since 1970, for people and for what outlives the process. They may jump."""
