"""The supervision of a daemon's tasks: no error of one ends another one, or the program."""

from __future__ import annotations

import asyncio
import logging
import traceback
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ParamSpec, TypeVar

from exo_lite.domain.clock import Clock
from exo_lite.domain.repeats import Backoff, Repeats

log = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

SOUND_AFTER_S = 30.0
"""A task that ran for so long starts its pauses anew at its next failure."""
LINES_EACH = 3
LINES_EVERY_S = 30.0
MAX_FRAMES = 6
MAX_CAUSE_CHARS = 500


class Supervisor:
    """Runs tasks whose failures are logged and stay their own. Cancelling and the end of the program pass through."""

    def __init__(
        self,
        clock: Clock,
        *,
        backoff: Backoff | None = None,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self._backoff = backoff or Backoff()
        self._clock = clock
        self._sleep = sleep
        self._repeats = Repeats(clock.now, burst=LINES_EACH, every_s=LINES_EVERY_S)

    async def keep(self, what: str, work: Callable[[], Awaitable[None]]) -> None:
        """Run `work` until it returns: when it fails, once more after a pause that grows with each failure."""
        num_failures = 0
        while True:
            started_s = self._clock.now()
            try:
                return await work()
            except Exception as error:  # a task's top
                self.note(what, error)
            num_failures = 1 if self._clock.now() - started_s >= SOUND_AFTER_S else num_failures + 1
            await self._sleep(self._backoff.pause_s(num_failures))

    async def contain(self, what: str, work: Awaitable[None]) -> None:
        """Run `work` once: its failure ends this task alone, and whoever started it starts it again if need be."""
        with self.containing(what):
            await work

    @contextmanager
    def containing(self, what: str) -> Iterator[None]:
        """Log what fails within, and go on behind it."""
        try:
            yield
        except Exception as error:  # a task's top
            self.note(what, error)

    def contained(self, what: str, call: Callable[P, None]) -> Callable[P, None]:
        """The same function, but its failures are logged and not raised."""

        def guarded(*args: P.args, **kwargs: P.kwargs) -> None:
            with self.containing(what):
                call(*args, **kwargs)

        return guarded

    def note(self, what: str, error: BaseException) -> None:
        """Log a failure: one line with its place, unless there were too many like it."""
        self._log(f"{what} failed, and goes on", error, f"{type(error).__name__}: {error}")

    def on_loop_error(self, loop: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
        """Log errors that the event loop found and nobody took.

        They may be a request's: of those that may quote a prompt only the type is told.
        """
        message, error = str(context.get("message")), context.get("exception")
        if not isinstance(error, BaseException):
            error = RuntimeError()
        kind = type(error).__name__
        self._log(message, error, f"{kind}: {error}" if isinstance(error, OSError) else kind)

    def _log(self, line: str, error: BaseException, cause: str) -> None:
        num_left_out = self._repeats.tell(f"{line} {type(error).__name__}")
        if num_left_out is None:
            return
        fields: dict[str, object] = {"cause": cause[:MAX_CAUSE_CHARS], "place": _place(error)}
        if num_left_out:
            fields["left_out"] = num_left_out
        log.error(line, extra=fields)


def _place(error: BaseException) -> str:
    """The innermost calls that led to an error, the last one first."""
    frames = traceback.extract_tb(error.__traceback__)[-MAX_FRAMES:]
    return " < ".join(f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in reversed(frames))
