"""A stage's part in one epoch: steps in, computing in order, steps or results out."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from queue import SimpleQueue
from threading import Lock, Thread, Timer
from typing import TypeVar

from exo_lite.domain.errors import ExoLiteError, MalformedMessage, NodeLost, StaleEpoch
from exo_lite.domain.ids import Epoch
from exo_lite.domain.pipeline import ConnectOrder
from exo_lite.domain.step import StageTiming, Step, StepFailure, StepMessage, StepResult
from exo_lite.pipeline.head import AVERAGE_WEIGHT, Head
from exo_lite.pipeline.stage import StageOutput
from exo_lite.worker.peers import Incoming, StagePeers

log = logging.getLogger(__name__)

Output = TypeVar("Output")
Compute = Callable[[StepMessage], StageOutput]
Timings = tuple[StageTiming, ...]
Build = Callable[[Step, StageOutput, Timings, StepFailure | None], Output]

HAND_OVER_S = 20e-6
"""A pause in which a waiting thread can wake up and take the interpreter's lock."""

UNTOLD_AFTER_S = 2.0
"""When the stage after the head breaks off, the reason is on its way round the ring: the head waits so long for it."""


class Session:
    """Runs from one Connect to the next. On stage 0, `start` makes a head part of it.

    The stages are a ring in which each has a stream from the one before it, and the head one from the tail. One thread
    computes: it takes a step from the stream that comes in, and hands what comes of it to the stream that goes out. On
    stage 0 the steps are the head's, whose decisions are made on the thread that brings the tail's results. To wake
    another thread takes about as long as a message on the wire, so that only the head's results do.

    A broken neighbour ends the session with NodeLost. The error travels as the steps do, by the ends of the streams, so
    that it reaches the head, and from there every request.
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
        self.head: Head | None = None
        self.error: ExoLiteError | None = None
        self.compute_ms: float | None = None
        self._compute = compute
        self._computing = computing
        self._on_start: Callable[[], None] | None = on_start
        self._on_step = on_step
        self._clock = clock
        self._lock = Lock()  # of `error` and `_is_taken`
        self._is_taken = False
        self._untold: Timer | None = None
        self._end_callbacks: list[Callable[[], None]] = []
        self._computing_since_s: float | None = None
        self._own_steps: SimpleQueue[StepMessage | None] = SimpleQueue()
        self._is_waiting = False
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

    def start(self, head: Head) -> None:
        """Serve `head`, on stage 0: every other stage of the epoch is there."""
        self.head = head
        Thread(target=self._take_results, args=(head,), name="results", daemon=True).start()

    def end(self, error: ExoLiteError) -> None:
        """Whoever waits for the session gets `error`; no further step is computed. From any thread."""
        self._note_stages(error)
        with self._lock:
            if self.error is not None:
                return
            self.error = error
            callbacks = [*self._end_callbacks]
        self._own_steps.put(None)
        if self._untold is not None:
            self._untold.cancel()
        for stream in (self._steps_in, self._results_in):
            if stream is not None:
                stream.close()
        if self.head is not None:
            self.head.fail(error)
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
        """Where the stage that this one reads from is silent, say between which two the stream broke off."""
        if isinstance(error, NodeLost) and error.is_unanswered and error.failed_stages is None:
            before = (self.order.stage or self.order.num_stages) - 1
            error.failed_stages = (before, self.order.stage)

    def enqueue(self, step: Step) -> None:
        """Take a step that the head made."""
        is_waited_for = self._is_waiting
        self._own_steps.put(StepMessage(step, sent_at_s=self._clock()))
        if is_waited_for:
            time.sleep(HAND_OVER_S)  # what the caller does next would keep the lock from the thread for longer

    def steps(self) -> Iterator[StepMessage]:
        """For the next stage: computed on the thread that iterates. Raises MalformedMessage if that is another's."""
        self._give_outputs(to_head=False)
        return self._outputs(self._as_step)

    def results(self) -> Iterator[StepResult]:
        """For the head, as `steps`."""
        self._give_outputs(to_head=True)
        return self._outputs(self._as_result)

    def break_off(self) -> None:
        """What this stage computes goes nowhere any more."""
        if self.error is not None:
            return
        stage, taker = self.order.stage, self.order.next_name
        error = NodeLost(f"{taker} takes no more of what stage {stage} computes: its stream has broken off")
        if self.head is None:
            self.end(error)
            return
        self._untold = Timer(UNTOLD_AFTER_S, self.end, (error,))
        self._untold.daemon = True
        self._untold.start()

    def _give_outputs(self, *, to_head: bool) -> None:
        stage, is_last = self.order.stage, self.order.stage == self.order.num_stages - 1
        if is_last != to_head:
            raise MalformedMessage(f"stage {stage} of {self.order.num_stages} computes no such thing")
        with self._lock:
            if self.error is not None:
                raise self.error
            if self._is_taken:
                raise MalformedMessage(f"what stage {stage} computes in epoch {self.epoch} goes to somebody already")
            self._is_taken = True

    def _take_results(self, head: Head) -> None:
        """On a thread of the head's. With one stage, the one that computes."""
        results = self.results() if self._results_in is None else self._results_in
        with self._ended_by_errors():
            for result in results:
                self._check_epoch(result.epoch)
                head.on_result(result)

    def _outputs(self, build: Build[Output]) -> Iterator[Output]:
        with self._ended_by_errors():
            for message, waited_s in self._arrivals():
                output, compute_ms, failure = self._computed(message)
                timings = (*message.timings, StageTiming(waited_s * 1000, compute_ms))
                yield build(message.step, output, timings, failure)
                if message.step.chunks:  # only now: the next stage waits for nothing any more
                    self._on_step()
                    self._average(compute_ms)
        assert self.error is not None
        raise self.error

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
        """Steps, and how long each has waited for this stage, in seconds."""
        return self._own_arrivals() if self._steps_in is None else self._arrivals_from(self._steps_in)

    def _own_arrivals(self) -> Iterator[tuple[StepMessage, float]]:
        while True:
            self._is_waiting = True
            message = self._own_steps.get()
            self._is_waiting = False
            if message is None:
                return
            yield message, self._clock() - message.sent_at_s

    def _arrivals_from(self, messages: Incoming[StepMessage]) -> Iterator[tuple[StepMessage, float]]:
        """When a message arrived is unknown, as nobody waits for it while this stage computes.

        Its way took about as long as that of the last one that was waited for; what is more than that, it has waited.
        Both ways hold the same difference between two clocks.
        """
        way_s, asked_at_s = float("inf"), self._clock()
        for message in messages:
            self._check_epoch(message.step.epoch)
            waited_s = asked_at_s - (message.sent_at_s + way_s)
            if waited_s <= 0:
                waited_s, way_s = 0.0, self._clock() - message.sent_at_s
            yield message, waited_s
            asked_at_s = self._clock()

    def _check_epoch(self, epoch: Epoch) -> None:
        if epoch != self.epoch:
            raise StaleEpoch(f"a step of epoch {epoch} came to stage {self.order.stage} of epoch {self.epoch}")

    def _computed(self, message: StepMessage) -> tuple[StageOutput, float, StepFailure | None]:
        """What came of it, how many ms that took, and the failure, of this stage or one before."""
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
        return output, compute_ms, failure

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
