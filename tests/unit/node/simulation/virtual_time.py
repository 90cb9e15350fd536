"""An event loop whose time jumps to the next timer whenever nothing is left to do.

asyncio's sleeps and deadlines go by their loop's time: code that waits for seconds waits for none here, and two runs do
the same things in the same order. Work for other threads is done on the loop's own.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor
from typing import Any, TypeVar

T = TypeVar("T")

WALL_AT_START_S = 1.9e9
NEVER_S = 24 * 3600.0
"""asyncio's longest wait: nothing is left that could happen."""


def now_s() -> float:
    """Of the loop that runs."""
    return asyncio.get_running_loop().time()


class VirtualClock:
    """Fits domain.clock.Clock."""

    def now(self) -> float:
        return now_s()

    def wall(self) -> float:
        return WALL_AT_START_S + self.now()


class _NoWait(selectors.DefaultSelector):
    """Tells how long it should have waited in place of waiting."""

    skip: Callable[[float], None]

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if not ready and timeout != 0:
            self.skip(NEVER_S if timeout is None else timeout)
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._now_s = 0.0
        selector = _NoWait()
        selector.skip = self._skip
        super().__init__(selector)

    def time(self) -> float:
        return self._now_s

    def run_in_executor(  # type: ignore[override]  # typeshed's has type variables of a later Python
        self, executor: Executor | None, func: Callable[..., T], *args: Any
    ) -> asyncio.Future[T]:
        done: asyncio.Future[T] = self.create_future()
        self.call_soon(self._do, done, func, *args)
        return done

    def _do(self, done: asyncio.Future[T], func: Callable[..., T], *args: Any) -> None:
        if done.cancelled():
            return
        try:
            result = func(*args)
        except Exception as error:
            done.set_exception(error)
        else:
            done.set_result(result)

    def _skip(self, pause_s: float) -> None:
        if pause_s >= NEVER_S:
            raise RuntimeError("nothing is left that could happen: everybody waits for somebody else")
        self._now_s += pause_s


def in_virtual_time(story: Coroutine[Any, Any, T]) -> T:
    """What the story returns or raises, however long it takes in its own time."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(story)
