"""How long an idle model stays in memory, as people write and read it."""

from __future__ import annotations

import math
import re

from exo_lite.domain.errors import InvalidRequest

KeepAlive = str | float
"""A duration as people write it: seconds, or as in 5m; below 0: for ever."""

FOR_EVER = math.inf
"""Seconds: until somebody unloads it. Such a model is pinned: it does not make room for others either."""
DEFAULT_KEEP_ALIVE_S = 300.0
"""The idle time after which a model that a request loaded is evicted."""

_UNIT_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_COUNT = re.compile(r"\s*(-?[0-9]{1,12}(?:\.[0-9]{1,9})?)\s*")
_DURATION = re.compile(r"\s*(-?)((?:[0-9]{1,12}(?:\.[0-9]{1,9})?(?:ms|s|m|h))+)\s*")
_PART = re.compile(r"([0-9.]+)(ms|s|m|h)")


def parse_keep_alive(value: KeepAlive) -> float:
    """Seconds of `300`, `5m` or `1h30m`; 0 evicts as soon as it is idle, anything below it never: FOR_EVER.

    Raises InvalidRequest.
    """
    seconds = _seconds_of(value) if isinstance(value, str) else float(value)
    if seconds is None or math.isnan(seconds):
        raise InvalidRequest(
            f"{str(value)[:40]!r} is not a duration: write seconds, or a duration such as 5m or 1h30m; "
            "0 unloads it as soon as it is idle, -1 keeps it for ever",
            param="keep_alive",
        )
    return seconds if seconds >= 0 else FOR_EVER


def parse_duration(text: str) -> float:
    """Seconds of `300`, `4s` or `1h30m`. Raises InvalidRequest."""
    seconds = _seconds_of(text)
    if seconds is None:
        raise InvalidRequest(f"{text[:40]!r} is not a duration: write seconds, or something such as 4s or 1h30m")
    return seconds


def _seconds_of(text: str) -> float | None:
    if count := _COUNT.fullmatch(text):
        return float(count[1])
    duration = _DURATION.fullmatch(text)
    if duration is None:
        return None
    seconds = sum(float(number) * _UNIT_S[unit] for number, unit in _PART.findall(duration[2]))
    return -seconds if duration[1] else seconds


def format_duration(seconds: float) -> str:
    """`45 s`, `1.5 min`, `2 h`; `for ever`."""
    if seconds == FOR_EVER:
        return "for ever"
    unit, unit_s = next(((unit, unit_s) for unit, unit_s in (("h", 3600), ("min", 60)) if seconds >= unit_s), ("s", 1))
    return f"{round(seconds / unit_s, 1):g} {unit}"
