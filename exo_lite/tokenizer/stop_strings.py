"""Strings that end an answer, found also where they span several tokens."""

from __future__ import annotations

from collections.abc import Sequence

from exo_lite.domain.errors import InvalidRequest


class StopStrings:
    """Passes text on, except what is or may become one of the stop strings.

    The first one to be complete ends the text, whatever the pieces it came in. Raises InvalidRequest for an empty one.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        if "" in stops:
            raise InvalidRequest("a stop string must not be empty", param="stop")
        self._stops = tuple(stops)
        self._max_held = max((len(stop) for stop in stops), default=1) - 1
        self._held = ""
        self._is_stopped = False

    def push(self, text: str) -> tuple[str, bool]:
        """The text that is certain by now, and whether a stop string has ended it."""
        if self._is_stopped:
            return "", True
        text = self._held + text
        start = self._first_stop(text)
        if start is not None:
            self._held, self._is_stopped = "", True
            return text[:start], True
        num_certain = len(text) - self._num_held(text)
        self._held = text[num_certain:]
        return text[:num_certain], False

    def finish(self) -> str:
        """Return the text held back that turned out to be no stop string."""
        held, self._held = self._held, ""
        return held

    def _first_stop(self, text: str) -> int | None:
        """Find the start of the stop string that ends first; of two that end together, the longer one."""
        found = [(start + len(stop), start) for stop in self._stops if (start := text.find(stop)) >= 0]
        return min(found)[1] if found else None

    def _num_held(self, text: str) -> int:
        """Length of the longest end of the text that begins a stop string."""
        for length in range(min(self._max_held, len(text)), 0, -1):
            if any(stop.startswith(text[-length:]) for stop in self._stops):
                return length
        return 0
