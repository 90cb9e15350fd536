"""The driver of a pipeline, on its first stage: it makes steps, schedules requests and delivers their tokens."""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import AsyncGenerator, Callable, Sequence
from threading import Lock
from typing import NamedTuple

from exo_lite.domain.errors import DeadlineExceeded, ExoLiteError, QueueFull
from exo_lite.domain.ids import RequestId
from exo_lite.domain.request import GenerateRequest, Token
from exo_lite.domain.step import Step, StepResult
from exo_lite.domain.trace import RequestTrace
from exo_lite.domain.worker_report import ServingCounts
from exo_lite.pipeline.scheduler import Scheduler, StepUnderWay
from exo_lite.pipeline.trace_ring import TraceRing

RATE_WINDOW_S = 5.0
AVERAGE_WEIGHT = 0.1
"""The weight of the newest measurement in a moving average."""
MAX_RETRY_AFTER_S = 60


Deliveries = Sequence[tuple[RequestId, Token | ExoLiteError]]


class _Returned(NamedTuple):
    """A step that has come back."""

    step: StepUnderWay
    result: StepResult
    deliveries: Deliveries
    sent_at_s: float
    came_at_s: float


class Driver:
    """Drives a scheduler: sends its steps, hands out its tokens.

    Requests live on the event loop that this is made on. Results may come from any thread, and the next steps leave
    from there, with no hand-over on the pipeline's way; the tokens follow to the event loop.
    """

    def __init__(
        self, scheduler: Scheduler, send: Callable[[Step], None], *, num_stages: int, clock: Callable[[], float]
    ) -> None:
        self._scheduler = scheduler
        self._send = send
        self._num_stages = num_stages
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._lock = Lock()  # of the scheduler and what is written down of its steps
        self._answers: dict[RequestId, asyncio.Queue[Token | ExoLiteError]] = {}
        self._sent_at_s: dict[int, float] = {}
        self._unsettled: list[_Returned] = []
        self._token_times_s: deque[float] = deque()
        self._traces = TraceRing()
        self._error: ExoLiteError | None = None
        self._last_end_s: float | None = None
        self._between_ends_s: float | None = None
        self._last_left_at_s = clock()
        self.proved_at_s: float | None = None
        self.hop_ms: float | None = None

    @property
    def num_running(self) -> int:
        return self._scheduler.num_running

    @property
    def num_waiting(self) -> int:
        return self._scheduler.num_waiting

    @property
    def num_in_flight(self) -> int:
        """Steps that have not come back."""
        return self._scheduler.num_in_flight

    @property
    def num_kv_blocks(self) -> int:
        return self._scheduler.num_blocks

    @property
    def num_free_kv_blocks(self) -> int:
        """The number of blocks that no request holds."""
        return self._scheduler.num_free_blocks

    @property
    def idle_s(self) -> float:
        """The seconds since the last request ended; 0 while there are some."""
        return 0.0 if self._answers else self._clock() - self._last_left_at_s

    @property
    def counts(self) -> ServingCounts:
        return self._scheduler.counts

    @property
    def tokens_per_second(self) -> float:
        """Over the last RATE_WINDOW_S seconds, all requests together."""
        oldest_s = self._clock() - RATE_WINDOW_S
        with self._lock:
            while self._token_times_s and self._token_times_s[0] < oldest_s:
                self._token_times_s.popleft()
            return len(self._token_times_s) / RATE_WINDOW_S

    @property
    def traces(self) -> tuple[RequestTrace, ...]:
        """The traces of the last requests, the newest first."""
        with self._lock:
            return self._traces.traces(self._clock())

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Token, None]:
        """The answer's tokens. Closing cancels.

        Raises what Scheduler.submit raises, DeadlineExceeded, or what ended the pipeline.
        """
        if self._error is not None:
            raise self._error
        # more never come: each token, an error of the request's own, and one of the pipeline
        answer: asyncio.Queue[Token | ExoLiteError] = asyncio.Queue(request.asked.max_tokens + 2)
        with self._lock:
            self._submit(request)
            self._traces.begin(request.request_id, self._clock())
            self._answers[request.request_id] = answer
            self._pump()
        timeout_s = request.asked.timeout_s
        deadline_s = None if timeout_s is None else self._loop.time() + timeout_s
        try:
            while True:
                item = await _next_before(deadline_s, answer, timeout_s)
                if isinstance(item, ExoLiteError):
                    raise item
                yield item
                if item.finish_reason is not None:
                    return
        finally:
            del self._answers[request.request_id]
            self._last_left_at_s = self._clock()
            with self._lock:
                self._scheduler.cancel(request.request_id)
                self._note_end()
                self._pump()

    def on_result(self, result: StepResult) -> None:
        """Take what came back from the tail, and send the next step. Results of unknown steps change nothing.

        Tokens are handed out, and further steps sent, by `settle`: the stages need not wait for that.
        """
        with self._lock:
            sent_at_s = self._sent_at_s.pop(result.step_id, None)
            if sent_at_s is None:
                return
            now_s = self._clock()
            step = self._scheduler.step_under_way(result.step_id)
            deliveries = self._deliveries_of(result, now_s)
            self._send_next()
            self._unsettled.append(_Returned(step, result, deliveries, sent_at_s, now_s))

    def settle(self) -> None:
        """Hand out what the results since the last call brought, and write down what they tell of costs and times.

        From any thread. To wake the event loop gives up the interpreter's lock, so a thread that is about to compute
        leaves this to another one.
        """
        with self._lock:
            self._pump()
            for step, result, deliveries, sent_at_s, now_s in self._unsettled:
                if deliveries:
                    self._loop.call_soon_threadsafe(self._deliver, deliveries)
                self._measure(result, now_s - sent_at_s)
                self._scheduler.learn(step, result, (now_s - sent_at_s) * 1000)
                for request_id in step.request_ids:
                    self._traces.add(request_id, sent_at_s, now_s, len(result.tokens), result.timings)
            self._unsettled.clear()

    def prove_if_idle(self) -> None:
        """Send a step without work through all hops unless steps are under way anyway."""
        with self._lock:
            if self._error is None and self._scheduler.num_in_flight == 0:
                self._send_step(self._scheduler.proof_step())

    def fail(self, error: ExoLiteError) -> None:
        """End every request with this error, and refuse new ones. From any thread."""
        self._error = error
        self._loop.call_soon_threadsafe(self._fail_answers, error)

    def _submit(self, request: GenerateRequest) -> None:
        """Raises what Scheduler.submit raises; QueueFull tells when to come again."""
        try:
            displaced = self._scheduler.submit(request)
        except QueueFull as error:
            error.retry_after_s = self._retry_after_s()
            raise
        if displaced is not None:
            made_room = QueueFull("the queue was full, and other API keys had fewer requests in it: try again later")
            made_room.retry_after_s = self._retry_after_s()
            self._deliver([(displaced, made_room)])

    def _retry_after_s(self) -> int | None:
        """Estimate when half of the queue will have run: late enough to find a place, before the queue is empty."""
        if self._between_ends_s is None:
            return None
        return min(MAX_RETRY_AFTER_S, max(1, math.ceil(self._between_ends_s * self.num_waiting / 2)))

    def _note_end(self) -> None:
        """How fast places become free counts only while somebody waits for one."""
        now_s = self._clock() if self.num_waiting else None
        if now_s is not None and self._last_end_s is not None:
            self._between_ends_s = _averaged(self._between_ends_s, now_s - self._last_end_s)
        self._last_end_s = now_s

    def _pump(self) -> None:
        while self._send_next():
            pass

    def _send_next(self) -> bool:
        """Send a step if there is one to send."""
        step = None if self._error is not None else self._scheduler.next_step()
        if step is not None:
            self._send_step(step)
        return step is not None

    def _send_step(self, step: Step) -> None:
        self._sent_at_s[step.step_id] = self._clock()
        self._send(step)

    def _deliveries_of(self, result: StepResult, now_s: float) -> Deliveries:
        """The tokens that a result brings, or the error that it brings, to each request of its step."""
        try:
            if result.failure is not None:
                raise result.failure.error
            tokens = self._scheduler.complete(result)
        except ExoLiteError as error:
            return [(request_id, error) for request_id in self._scheduler.fail(result.step_id)]
        self.proved_at_s = now_s
        self._token_times_s.extend([now_s] * len(tokens))
        return tokens

    def _deliver(self, deliveries: Deliveries) -> None:
        for request_id, item in deliveries:
            if request_id in self._answers:
                self._answers[request_id].put_nowait(item)

    def _fail_answers(self, error: ExoLiteError) -> None:
        self._deliver([(request_id, error) for request_id in self._answers])

    def _measure(self, result: StepResult, duration_s: float) -> None:
        """Measure the hops: a step's time less the stages' own."""
        if self._num_stages == 1:
            return
        stages_ms = sum(timing.queue_ms + timing.compute_ms for timing in result.timings)
        hop_ms = max(0.0, duration_s * 1000 - stages_ms) / self._num_stages
        self.hop_ms = _averaged(self.hop_ms, hop_ms)


def _averaged(average: float | None, measured: float) -> float:
    return measured if average is None else average + AVERAGE_WEIGHT * (measured - average)


async def _next_before(
    deadline_s: float | None, answer: asyncio.Queue[Token | ExoLiteError], timeout_s: float | None
) -> Token | ExoLiteError:
    """Return the next token or error; raises DeadlineExceeded. `deadline_s`: of the event loop's clock."""
    try:
        async with asyncio.timeout_at(deadline_s):
            return await answer.get()
    except TimeoutError as error:
        raise DeadlineExceeded(f"the answer was not complete within the {timeout_s:g} s allowed") from error
