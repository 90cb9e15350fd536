"""A clock that only its test moves."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class SetClock:
    """Fits domain.clock.Clock."""

    now_s: float = 0.0
    wall_s: float = 0.0

    def now(self) -> float:
        return self.now_s

    def wall(self) -> float:
        return self.wall_s
