"""The one thread of a worker that computes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from threading import Thread
from typing import TypeVar

Result = TypeVar("Result")
Job = Callable[[], None]

HAND_OVER_S = 20e-6
"""A pause in which the thread can wake up and take the interpreter's lock."""


class ComputeThread:
    """Does jobs one by one, in the order of their coming. A bare queue costs half of an executor's way to a thread."""

    def __init__(self) -> None:
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()
        self._is_idle = True
        Thread(target=self._work, name="compute", daemon=True).start()

    def submit(self, job: Job) -> None:
        """Any thread may; the job must not raise."""
        is_idle = self._is_idle
        self._jobs.put(job)
        if is_idle:
            time.sleep(HAND_OVER_S)  # what the caller does next would keep the lock from the thread for longer

    async def run(self, function: Callable[[], Result]) -> Result:
        """What `function` returns or raises on the thread."""
        outcome: Future[Result] = Future()

        def job() -> None:
            if outcome.set_running_or_notify_cancel():
                try:
                    outcome.set_result(function())
                except Exception as error:  # whoever waits for the outcome gets it
                    outcome.set_exception(error)

        self.submit(job)
        return await asyncio.wrap_future(outcome)

    def stop(self) -> None:
        """End the thread once it has done the jobs before, without waiting for that."""
        self._jobs.put(None)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            self._is_idle = False
            job()
            self._is_idle = True
            del job  # what it holds may be large, and the next one long in coming
