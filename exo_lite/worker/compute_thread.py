"""The one thread of a worker that computes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from threading import Thread
from typing import TypeVar

Result = TypeVar("Result")
Job = Callable[[], None]


class ComputeThread:
    """Does jobs one by one, in the order of their coming. A bare queue costs half of an executor's way to a thread."""

    def __init__(self) -> None:
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()
        Thread(target=self._work, name="compute", daemon=True).start()

    def submit(self, job: Job) -> None:
        """Any thread may; the job must not raise."""
        self._jobs.put(job)

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
            job()
            del job  # what it holds may be large, and the next one long in coming
