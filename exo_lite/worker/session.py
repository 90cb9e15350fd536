"""A stage's part in one epoch: steps in, computing in order, steps or results out."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

from exo_lite.domain.errors import ExoLiteError, MalformedStep, StaleEpoch
from exo_lite.domain.ids import Epoch
from exo_lite.domain.pipeline import ConnectOrder
from exo_lite.domain.step import StageTiming, Step, StepFailure, StepMessage, StepResult
from exo_lite.pipeline.head import AVERAGE_WEIGHT, Head
from exo_lite.pipeline.stage import StageOutput
from exo_lite.transport.out_stream import OutStream, open_pipe, open_results
from exo_lite.worker.compute_thread import Job

log = logging.getLogger(__name__)

Item = TypeVar("Item")
Compute = Callable[[StepMessage], StageOutput]

MAX_WAITING_PER_STAGE = 4
"""Steps that may wait here, for each stage of the pipeline; a sound head has one under way for each."""


class Session:
    """Runs from one Connect to the next. `head` is set on stage 0; `submit` leads to the compute thread.

    Two threads have a part in it. The event loop takes what comes in and, at the head, decides; the compute thread does
    the steps one by one and sends what comes of them straight on. A hand-over from one to the other takes about as long
    as a message on the wire, so that there is one per hop.

    A broken neighbour ends the session with NodeLost; each stage hands the error to the one before it by ending its
    stream with it, so that it reaches the head, and from there every request.
    """

    def __init__(
        self,
        order: ConnectOrder,
        compute: Compute,
        submit: Callable[[Job], None],
        *,
        max_message_bytes: int,
        clock: Callable[[], float],
    ) -> None:
        self.order = order
        self.head: Head | None = None
        self.compute_ms: float | None = None
        self._compute = compute
        self._submit = submit
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._ended: asyncio.Future[ExoLiteError] = self._loop.create_future()
        self._num_taken = 0  # written by the event loop only
        self._num_done = 0  # written by the compute thread only
        self._steps_out: OutStream[StepMessage] | None = None
        self._results_out: OutStream[StepResult] | None = None
        if order.next is not None:
            self._steps_out = open_pipe(order.next, self._end_soon, max_message_bytes=max_message_bytes)
        elif order.head is not None:
            self._results_out = open_results(order.head, self._end_soon, max_message_bytes=max_message_bytes)

    @property
    def epoch(self) -> Epoch:
        return self.order.epoch

    @property
    def error(self) -> ExoLiteError | None:
        return self._ended.result() if self._ended.done() else None

    def end(self, error: ExoLiteError) -> None:
        """Whoever waits for the session gets `error`; steps that wait are not computed any more."""
        if self._ended.done():
            return
        self._ended.set_result(error)
        for stream in (self._steps_out, self._results_out):
            if stream is not None:
                stream.close()
        if self.head is not None:
            self.head.fail(error)

    def enqueue(self, step: Step) -> None:
        """Take a step that the head made here."""
        self._accept(StepMessage(step))

    async def take_steps(self, messages: AsyncIterator[StepMessage]) -> None:
        """Take the steps of the stage before until either side ends. Raises StaleEpoch or the session's error."""
        await self._drain(messages, self._take_step)

    async def take_results(self, results: AsyncIterator[StepResult]) -> None:
        """Take the tail's results until either side ends. Raises StaleEpoch or the session's error."""
        await self._drain(results, self._take_result)

    async def _drain(self, stream: AsyncIterator[Item], take: Callable[[Item], None]) -> None:
        async def read() -> None:
            async for item in stream:
                take(item)

        reader = asyncio.ensure_future(read())
        try:
            waited: set[asyncio.Future[Any]] = {reader, self._ended}
            await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
            if self.error is not None:
                raise self.error
            await reader
        finally:
            reader.cancel()

    def _take_step(self, message: StepMessage) -> None:
        self._check_epoch(message.step.epoch)
        if self.head is not None:
            raise MalformedStep("stage 0 is the head, which makes its steps itself")
        num_waiting = self._num_taken - self._num_done
        if num_waiting >= MAX_WAITING_PER_STAGE * self.order.num_stages:
            raise MalformedStep(f"{num_waiting} steps wait at stage {self.order.stage}: a sound head sends no more")
        self._accept(message)

    def _take_result(self, result: StepResult) -> None:
        self._check_epoch(result.epoch)
        if self.head is None:
            raise MalformedStep(f"stage {self.order.stage} is not the head: results do not belong here")
        self.head.on_result(result)

    def _check_epoch(self, epoch: Epoch) -> None:
        if epoch != self.epoch:
            raise StaleEpoch(f"a step of epoch {epoch} came to stage {self.order.stage} of epoch {self.epoch}")

    def _accept(self, message: StepMessage) -> None:
        if not self._ended.done():
            self._num_taken += 1
            self._submit(partial(self._do, message, self._clock()))

    def _end_soon(self, error: ExoLiteError) -> None:
        """`end`, from any thread."""
        self._loop.call_soon_threadsafe(self.end, error)

    @contextmanager
    def _ended_by_bugs(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # the top of what a thread or the event loop does for a step
            log.exception("a stage failed", extra={"epoch": self.epoch, "stage": self.order.stage})
            self._end_soon(ExoLiteError(f"stage {self.order.stage} failed: {error!r}"))

    def _do(self, message: StepMessage, arrived_at_s: float) -> None:
        """One step, on the compute thread."""
        if self._ended.done():
            return
        with self._ended_by_bugs():
            started_at_s = self._clock()
            output, failure = StageOutput(), message.failure
            try:
                output = self._compute(message)
            except ExoLiteError as error:
                failure = StepFailure(error.code, str(error))
            compute_ms = (self._clock() - started_at_s) * 1000
            if self._ended.done():
                return  # in the meantime
            self._pass_on(message, output, failure, StageTiming((started_at_s - arrived_at_s) * 1000, compute_ms))
            self._num_done += 1
            if message.step.chunks:
                self._average(compute_ms)

    def _pass_on(
        self, message: StepMessage, output: StageOutput, failure: StepFailure | None, timing: StageTiming
    ) -> None:
        step, timings = message.step, (*message.timings, timing)
        if self._steps_out is not None:
            self._steps_out.send(StepMessage(step, output.hidden_states, timings, failure))
            return
        result = StepResult(step.epoch, step.step_id, output.tokens, timings, failure)
        if self._results_out is not None:
            self._results_out.send(result)
        else:
            self._loop.call_soon_threadsafe(self._take_own_result, result)

    def _take_own_result(self, result: StepResult) -> None:
        """That of a pipeline of one stage."""
        with self._ended_by_bugs():
            self._take_result(result)

    def _average(self, compute_ms: float) -> None:
        previous = self.compute_ms
        self.compute_ms = compute_ms if previous is None else previous + AVERAGE_WEIGHT * (compute_ms - previous)
