"""Time in which this process was awake."""

from __future__ import annotations

from collections.abc import Callable

LONG_PAUSE_S = 2.0
"""The pause after which others may have gone on without this process."""
CATCH_UP_S = 2.0


class AwakeClock:
    """Seconds, of which a pause of the whole process counts as `max_tick_s` at most.

    A machine that slept, or a daemon that was stopped, heard nothing meanwhile: that is no evidence against others.
    `tick` is to be called more often than every `max_tick_s`.
    """

    def __init__(self, clock: Callable[[], float], *, max_tick_s: float) -> None:
        self._clock = clock
        self._max_tick_s = max_tick_s
        self._ticked_at_s = clock()
        self._awake_s = 0.0
        self._woke_at_s: float | None = None

    def now(self) -> float:
        return self._awake_s + min(self._clock() - self._ticked_at_s, self._max_tick_s)

    def tick(self) -> float:
        """Count the time since the last tick, and return now."""
        paused_s = self._clock() - self._ticked_at_s
        self._awake_s = self.now()
        self._ticked_at_s = self._clock()
        if paused_s >= LONG_PAUSE_S:
            self._woke_at_s = self._awake_s
        return self._awake_s

    @property
    def has_just_woken(self) -> bool:
        """True if this process was paused for long and has not asked the others yet: its knowledge may be old."""
        if self._clock() - self._ticked_at_s >= LONG_PAUSE_S:
            return True
        return self._woke_at_s is not None and self.now() - self._woke_at_s < CATCH_UP_S
