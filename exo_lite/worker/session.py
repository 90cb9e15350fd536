"""A stage's part in one epoch: steps in, computing in order, steps or results out."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Lock, Thread, Timer, get_ident
from typing import TypeVar

from exo_lite.domain.errors import ExoLiteError, MalformedMessage, NodeLost, StaleEpoch
from exo_lite.domain.ids import Epoch
from exo_lite.domain.pipeline import ConnectOrder
from exo_lite.domain.step import StageTiming, Step, StepFailure, StepMessage, StepResult
from exo_lite.pipeline.driver import AVERAGE_WEIGHT, Driver
from exo_lite.pipeline.stage import StageOutput
from exo_lite.worker.own_steps import OwnSteps
from exo_lite.worker.peers import Incoming, StagePeers

log = logging.getLogger(__name__)

Output = TypeVar("Output", StepMessage, StepResult)
Compute = Callable[[StepMessage], StageOutput]
Timings = tuple[StageTiming, ...]
Build = Callable[[Step, StageOutput, Timings, StepFailure | None], Output]

REASON_WITHIN_S = 2.0
"""The time that the first stage waits for the reason when its stream breaks: the reason comes round the ring."""


class Session:
    """Runs from one Connect to the next. On stage 0, `start` makes a driver part of it.

    The stages are a ring in which each has a stream from the one before it, and the driver one from the tail. To wake
    another thread takes about as long as a message on the wire, so the thread that reads a stream also computes and
    sends what comes of it. On stage 0 that is the one that reads the tail's results, as long as a single step is under
    way. While there are more, it goes on reading, and leaves the driver's steps to the thread that serves the stream.

    A broken neighbour ends the session with NodeLost. The error travels as the steps do, by the ends of the streams, so
    that it reaches the driver, and from there every request.
    """

    def __init__(
        self,
        order: ConnectOrder,
        compute: Compute,
        computing: Lock,
        *,
        on_start: Callable[[], None],
        on_step: Callable[[], None],
        peers: StagePeers,
        clock: Callable[[], float],
    ) -> None:
        """`computing` is held for each step, and not taken for another once the session has ended.

        On the thread that computes, `on_start` is called before the first step, and `on_step` after each with work.
        """
        self.order = order
        self.driver: Driver | None = None
        self.error: ExoLiteError | None = None
        self.compute_ms: float | None = None
        self._compute = compute
        self._computing = computing
        self._on_start: Callable[[], None] | None = on_start
        self._on_step = on_step
        self._clock = clock
        self._lock = Lock()  # of `error` and `_is_taken`
        self._is_taken = False
        self._reason_timer: Timer | None = None
        self._end_callbacks: list[Callable[[], None]] = []
        self._computing_since_s: float | None = None
        self._own_steps = OwnSteps()
        self._in_turn = Lock()  # of computing a step and sending what comes of it
        self._in_turn_id: int | None = None
        """The thread that goes on with the only step under way, once the driver has made it."""
        self._only_step: StepMessage | None = None
        self._send: Callable[[StepMessage], None] | None = None
        self._steps_in: Incoming[StepMessage] | None = None
        self._results_in: Incoming[StepResult] | None = None
        if order.previous is not None:
            self._steps_in = peers.steps(order.previous, order.epoch)
        if order.tail is not None:
            self._results_in = peers.results(order.tail, order.epoch)

    @property
    def epoch(self) -> Epoch:
        return self.order.epoch

    @property
    def step_age_s(self) -> float:
        """Seconds since the step that is being computed began; 0 where there is none."""
        since_s = self._computing_since_s
        return 0.0 if since_s is None else self._clock() - since_s

    def start(self, driver: Driver) -> None:
        """Serve `driver`, on stage 0: every other stage of the epoch is there."""
        self.driver = driver
        Thread(target=self._take_results, args=(driver,), name="results", daemon=True).start()

    def end(self, error: ExoLiteError) -> None:
        """Whoever waits for the session gets `error`; no further step is computed. From any thread."""
        self._note_stages(error)
        with self._lock:
            if self.error is not None:
                return
            self.error = error
            callbacks = [*self._end_callbacks]
        self._own_steps.end()
        if self._reason_timer is not None:
            self._reason_timer.cancel()
        for stream in (self._steps_in, self._results_in):
            if stream is not None:
                stream.close()
        if self.driver is not None:
            self.driver.fail(error)
        for callback in callbacks:
            callback()

    def when_ended(self, callback: Callable[[], None]) -> None:
        """Call back when the session ends, at once if it has."""
        with self._lock:
            if self.error is None:
                self._end_callbacks.append(callback)
                return
        callback()

    def _note_stages(self, error: ExoLiteError) -> None:
        """Note between which two stages the stream broke, if the stage before is silent."""
        if isinstance(error, NodeLost) and error.is_unanswered and error.failed_stages is None:
            before = (self.order.stage or self.order.num_stages) - 1
            error.failed_stages = (before, self.order.stage)

    def enqueue(self, step: Step) -> None:
        """Take a step that the driver made, in the order of its steps: under its lock."""
        message = StepMessage(step, sent_at_s=self._clock())
        if self._in_turn_id == get_ident() and self.driver is not None and self.driver.num_in_flight == 1:
            self._only_step = message
        else:
            self._own_steps.put(message)

    def steps(self, send: Callable[[StepMessage], None] | None = None) -> Iterator[StepMessage]:
        """Yield steps for the next stage, computed on this thread. Raises MalformedMessage if last.

        With `send`, those of stage 0 may be computed and sent by the thread that brings results.
        """
        self._give_outputs(to_driver=False)
        self._send = send
        return self._outputs(self._as_step)

    def results(self) -> Iterator[StepResult]:
        """Yield results for the first stage, computed on this thread. Raises MalformedMessage if not last."""
        self._give_outputs(to_driver=True)
        return self._outputs(self._as_result)

    def break_off(self) -> None:
        """Note that nobody reads this stage's output any more."""
        if self.error is not None:
            return
        stage, taker = self.order.stage, self.order.next_name
        error = NodeLost(f"{taker} stopped reading the output of stage {stage}: the connection between the two broke")
        if self.driver is None:
            self.end(error)
            return
        self._reason_timer = Timer(REASON_WITHIN_S, self.end, (error,))
        self._reason_timer.daemon = True
        self._reason_timer.start()

    def _give_outputs(self, *, to_driver: bool) -> None:
        stage, is_last = self.order.stage, self.order.stage == self.order.num_stages - 1
        if is_last != to_driver:
            product = "results" if to_driver else "hidden states"
            raise MalformedMessage(f"stage {stage} of {self.order.num_stages} does not produce {product}")
        with self._lock:
            if self.error is not None:
                raise self.error
            if self._is_taken:
                raise MalformedMessage(f"the output of stage {stage} in epoch {self.epoch} has a reader already")
            self._is_taken = True

    def _take_results(self, driver: Driver) -> None:
        """Take results on a thread of the first stage. With one stage, this thread computes."""
        results = self.results() if self._results_in is None else self._results_in
        with self._ended_by_errors():
            for result in results:
                self._check_epoch(result.epoch)
                self._take_result(driver, result)

    def _take_result(self, driver: Driver, result: StepResult) -> None:
        """Go on with the step that a result leads to, if it is the only one under way: nothing else can come back.

        The turn is taken before that step exists: none that the driver makes later may overtake it.
        """
        if self._send is None or driver.num_in_flight != 1 or not self._in_turn.acquire(blocking=False):
            driver.on_result(result)
            driver.settle()
            return
        try:
            self._in_turn_id = get_ident()
            driver.on_result(result)
            self._in_turn_id = None
            message, self._only_step = self._only_step, None
            self._own_steps.call(driver.settle)
            if message is not None:
                outcome = self._outcome(self._as_step, message, message.sent_at_s)
                self._send(outcome)
                self._note_step(outcome.step, outcome.timings[-1].compute_ms)
        finally:
            self._in_turn.release()

    def _outputs(self, build: Build[Output]) -> Iterator[Output]:
        with self._ended_by_errors():
            for message, came_at_s in self._arrivals():
                with self._in_turn:
                    output = self._outcome(build, message, came_at_s)
                    yield output
                self._note_step(message.step, output.timings[-1].compute_ms)
        assert self.error is not None
        raise self.error

    def _outcome(self, build: Build[Output], message: StepMessage, came_at_s: float) -> Output:
        output, started_at_s, compute_ms, failure = self._computed(message)
        timing = StageTiming((started_at_s - came_at_s) * 1000, compute_ms)
        return build(message.step, output, (*message.timings, timing), failure)

    def _note_step(self, step: Step, compute_ms: float) -> None:
        """Note a step's cost. Call after it is sent, when the next stage waits for nothing any more."""
        if step.chunks:
            self._on_step()
            self._average(compute_ms)

    @contextmanager
    def _ended_by_errors(self) -> Iterator[None]:
        try:
            yield
        except ExoLiteError as error:
            self.end(error)
        except Exception as error:  # the top of what a thread does for a step
            log.exception("a stage failed", extra={"epoch": self.epoch, "stage": self.order.stage})
            self.end(ExoLiteError(f"stage {self.order.stage} failed: {error!r}"))

    def _arrivals(self) -> Iterator[tuple[StepMessage, float]]:
        """Steps, and when each came, in seconds of this stage's clock."""
        if self._steps_in is not None:
            return self._arrivals_from(self._steps_in)
        return ((message, message.sent_at_s) for message in self._own_steps)

    def _arrivals_from(self, messages: Incoming[StepMessage]) -> Iterator[tuple[StepMessage, float]]:
        """Yield messages with their waiting times. The arrival time of a message is unknown while this stage computes.

        Its way took about as long as that of the last one that was waited for; what is more than that, it has waited.
        Both ways hold the same difference between two clocks.
        """
        way_s, asked_at_s = float("inf"), self._clock()
        for message in messages:
            self._check_epoch(message.step.epoch)
            came_at_s = message.sent_at_s + way_s
            if came_at_s >= asked_at_s:
                came_at_s = self._clock()
                way_s = came_at_s - message.sent_at_s
            yield message, came_at_s
            asked_at_s = self._clock()

    def _check_epoch(self, epoch: Epoch) -> None:
        if epoch != self.epoch:
            raise StaleEpoch(f"a step of epoch {epoch} came to stage {self.order.stage} of epoch {self.epoch}")

    def _computed(self, message: StepMessage) -> tuple[StageOutput, float, float, StepFailure | None]:
        """Compute a step: return output, start, time in ms, and the failure of this stage or an earlier one."""
        with self._computing:
            if self.error is not None:
                raise self.error
            self._computing_since_s = started_at_s = self._clock()
            output, failure = StageOutput(), message.failure
            try:
                self._start_computing()
                output = self._compute(message)
            except ExoLiteError as error:
                failure = StepFailure(error.code, str(error))
            self._computing_since_s = None
            compute_ms = (self._clock() - started_at_s) * 1000
        return output, started_at_s, compute_ms, failure

    def _start_computing(self) -> None:
        if self._on_start is not None:
            self._on_start()
            self._on_start = None

    def _as_step(self, step: Step, output: StageOutput, timings: Timings, failure: StepFailure | None) -> StepMessage:
        return StepMessage(step, output.hidden_states, timings, failure, self._clock())

    def _as_result(self, step: Step, output: StageOutput, timings: Timings, failure: StepFailure | None) -> StepResult:
        return StepResult(step.epoch, step.step_id, output.tokens, timings, failure, output.scores)

    def _average(self, compute_ms: float) -> None:
        previous = self.compute_ms
        self.compute_ms = compute_ms if previous is None else previous + AVERAGE_WEIGHT * (compute_ms - previous)
