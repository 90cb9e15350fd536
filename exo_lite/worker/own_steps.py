"""Steps that the driver has made and the first stage has not computed yet."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from queue import SimpleQueue

from exo_lite.domain.step import StepMessage

HAND_OVER_S = 20e-6
"""A pause in which a waiting thread can wake up and take the interpreter's lock."""


class OwnSteps:
    """A queue to the one thread that iterates, from any other."""

    def __init__(self) -> None:
        self._queue: SimpleQueue[StepMessage | Callable[[], None] | None] = SimpleQueue()
        self._is_waited_for = False

    def put(self, message: StepMessage) -> None:
        is_waited_for = self._is_waited_for
        self._queue.put(message)
        if is_waited_for:
            time.sleep(HAND_OVER_S)  # what the caller does next would keep the lock from the thread for longer

    def call(self, function: Callable[[], None]) -> None:
        """Have the thread that iterates call a function when it comes to it. It wakes up while this one goes on."""
        self._queue.put(function)

    def end(self) -> None:
        """Nothing is taken from the queue any more than stands in it."""
        self._queue.put(None)

    @property
    def is_empty(self) -> bool:
        return self._queue.empty()

    def __iter__(self) -> Iterator[StepMessage]:
        """Wait for each, until the end."""
        while True:
            self._is_waited_for = True
            message = self._queue.get()
            self._is_waited_for = False
            if message is None:
                return
            if isinstance(message, StepMessage):
                yield message
            else:
                message()
