"""Repeated log lines and retries: which lines are worth writing, and how long to wait for the next try."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

MAX_SUBJECTS = 1000


@dataclass(slots=True)
class _Window:
    started_at_s: float
    num_told: int = 0
    num_left_out: int = 0


class Repeats:
    """Lets `burst` lines on a subject through in each span of `every_s` seconds, and counts the others."""

    def __init__(self, clock: Callable[[], float], *, burst: int = 1, every_s: float = 30.0) -> None:
        self._clock = clock
        self._burst = burst
        self._every_s = every_s
        self._windows: dict[str, _Window] = {}

    def tell(self, subject: str) -> int | None:
        """How many lines were left out since the last one; None where this one is left out too."""
        now_s = self._clock()
        window = self._windows.get(subject)
        if window is None or now_s - window.started_at_s >= self._every_s:
            num_left_out = window.num_left_out if window else 0
            self._windows.pop(subject, None)
            while len(self._windows) >= MAX_SUBJECTS:
                del self._windows[next(iter(self._windows))]
            self._windows[subject] = _Window(now_s, num_told=1)
            return num_left_out
        if window.num_told < self._burst:
            window.num_told += 1
            return 0
        window.num_left_out += 1
        return None


@dataclass(frozen=True, slots=True)
class Backoff:
    """Pauses that double from `first_s` to `longest_s`."""

    first_s: float = 0.25
    longest_s: float = 5.0

    def pause_s(self, num_failures: int) -> float:
        """The pause after so many failures in a row."""
        return min(self.longest_s, self.first_s * 2.0 ** min(num_failures - 1, 30))
