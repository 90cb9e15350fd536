"""A stage's session without a network: the test takes what it computes, and moves its clock."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from contextlib import suppress
from queue import SimpleQueue
from threading import Lock, Thread, current_thread
from typing import Generic, TypeVar, cast

import pytest

from exo_lite.domain.errors import ExoLiteError, MalformedMessage, MalformedStep, NodeLost, StaleEpoch
from exo_lite.domain.ids import Epoch, ModelId, RequestId
from exo_lite.domain.pipeline import ConnectOrder, Endpoint
from exo_lite.domain.request import AnswerRequest, GenerateRequest, Sampling
from exo_lite.domain.step import SampledToken, SequenceChunk, StageTiming, Step, StepMessage, StepResult
from exo_lite.pipeline.driver import Driver
from exo_lite.pipeline.scheduler import Scheduler
from exo_lite.pipeline.stage import StageOutput
from exo_lite.worker import session as session_module
from exo_lite.worker.session import Session
from tests.waiting import until

NOWHERE = Endpoint("nowhere", "127.0.0.1:9")
EPOCH = Epoch(1)
Compute = Callable[[StepMessage], StageOutput]
Item = TypeVar("Item")


class Stream(Generic[Item]):
    """In place of the one from another stage: what comes is the test's."""

    def __init__(self) -> None:
        self.items: SimpleQueue[Item | None] = SimpleQueue()

    def __iter__(self) -> Iterator[Item]:
        return iter(self.items.get, None)

    def close(self) -> None:
        self.items.put(None)


class OtherStages:
    """Fits StagePeers."""

    def __init__(self) -> None:
        self.before, self.tail = Stream[StepMessage](), Stream[StepResult]()

    def steps(self, endpoint: Endpoint, epoch: Epoch) -> Stream[StepMessage]:
        return self.before

    def results(self, endpoint: Endpoint, epoch: Epoch) -> Stream[StepResult]:
        return self.tail

    async def until_silent(self, endpoint: Endpoint) -> NodeLost:
        await asyncio.Event().wait()
        raise AssertionError("nobody watches a session alone")


class Bench:
    """A session of a stage, whose compute thread is whichever takes its outputs."""

    def __init__(self, compute: Compute, *, stage: int, num_stages: int) -> None:
        is_driver = stage == 0 < num_stages - 1
        order = ConnectOrder(
            ModelId("m"), EPOCH, stage, num_stages, NOWHERE if stage else None, NOWHERE if is_driver else None, "attic"
        )
        self.now_s = 0.0
        self.starts: list[float] = []
        self.computing = Lock()
        others = OtherStages()
        self.before, self.tail = others.before, others.tail
        self.session = Session(
            order,
            compute,
            self.computing,
            on_start=lambda: self.starts.append(self.now_s),
            on_step=lambda: None,
            peers=others,
            clock=lambda: self.now_s,
        )

    def start(self) -> None:
        num_stages = self.session.order.num_stages
        scheduler = Scheduler(epoch=EPOCH, num_stages=num_stages, num_sequences=2, context_length=64, vocab_size=100)
        self.session.start(Driver(scheduler, self.session.enqueue, num_stages=num_stages, clock=lambda: self.now_s))


def first_stage(compute: Compute) -> Bench:
    return Bench(compute, stage=0, num_stages=2)


def last_stage(compute: Compute) -> Bench:
    return Bench(compute, stage=1, num_stages=2)


def nothing(message: StepMessage) -> StageOutput:
    return StageOutput()


def draw_five(message: StepMessage) -> StageOutput:
    return StageOutput(tokens=tuple(SampledToken(chunk.sequence_index, 5) for chunk in message.step.chunks))


def step(step_id: int, *, epoch: Epoch = EPOCH) -> Step:
    return Step(epoch, step_id, chunks=(SequenceChunk(0, 0, 1),))


def ask(bench: Bench, num_tokens: int, *, name: str = "r") -> asyncio.Future[list[int]]:
    async def collect() -> list[int]:
        assert bench.session.driver is not None
        request = GenerateRequest(
            RequestId(name), ModelId("m"), EPOCH, 0, AnswerRequest((1, 2), num_tokens, Sampling())
        )
        return [token.token_id async for token in bench.session.driver.generate(request)]

    return asyncio.ensure_future(collect())


async def test_a_pipeline_of_one_stage_feeds_itself():
    bench = Bench(draw_five, stage=0, num_stages=1)
    bench.start()
    assert await ask(bench, 3) == [5, 5, 5]
    bench.session.end(NodeLost("the test is over"))


def test_steps_that_wait_when_the_session_ends_are_not_computed():
    computed: list[StepMessage] = []

    def compute(message: StepMessage) -> StageOutput:
        computed.append(message)
        return StageOutput()

    bench = first_stage(compute)
    outputs = bench.session.steps()
    for step_id in range(3):
        bench.session.enqueue(step(step_id))
    assert next(outputs).step.step_id == 0
    bench.session.end(NodeLost("the placement changed"))
    with pytest.raises(NodeLost, match="the placement changed"):
        next(outputs)
    assert [message.step.step_id for message in computed] == [0]
    with pytest.raises(NodeLost, match="the placement changed"):
        bench.session.steps()


async def test_a_step_that_waits_for_its_turn_is_not_computed_after_the_end():
    """The next session may have reset the stage by then."""
    computed: list[StepMessage] = []

    def compute(message: StepMessage) -> StageOutput:
        computed.append(message)
        return StageOutput()

    bench = first_stage(compute)
    outputs, ended = bench.session.steps(), list[ExoLiteError]()

    def take() -> None:
        with pytest.raises(NodeLost) as raised:
            next(outputs)
        ended.append(raised.value)

    thread = Thread(target=take, daemon=True)
    with bench.computing:
        thread.start()
        bench.session.enqueue(step(0))
        await until(lambda: bench.session._own_steps.is_empty, "the step is taken")
        bench.session.end(NodeLost("the placement changed"))
    await until(lambda: ended, "whoever takes the steps hears of it")
    assert computed == []


def test_what_a_stage_computes_goes_to_one_only():
    bench = first_stage(nothing)
    with pytest.raises(MalformedMessage, match="stage 0 of 2 does not produce results"):
        bench.session.results()
    bench.session.steps()
    with pytest.raises(MalformedMessage, match="has a reader already"):
        bench.session.steps()


def test_only_the_computing_is_measured_as_such():
    bench = first_stage(lambda message: _take(bench, 0.25))
    bench.session.enqueue(step(0))
    bench.now_s += 3.0  # in the queue
    outputs = bench.session.steps()
    message = next(outputs)
    assert message.timings == (StageTiming(3000.0, 250.0),)
    assert message.sent_at_s == 3.25
    bench.session.enqueue(step(1))
    next(outputs)
    assert bench.session.compute_ms == pytest.approx(250.0)


def test_what_a_step_waited_beyond_the_usual_way_was_for_this_stage():
    """The other stage's clock is 100 s ahead, and the way takes 2 s."""
    bench = last_stage(lambda message: _take(bench, 10.0))
    results = bench.session.results()
    sent_at_s = (0.0, 1.0, 6.0, 38.0)
    for step_id, at_s in enumerate(sent_at_s):
        bench.before.items.put(StepMessage(step(step_id), sent_at_s=100 + at_s))
    queue_ms = []
    for at_s in sent_at_s:
        bench.now_s = max(bench.now_s, at_s + 2.0)
        queue_ms.append(next(results).timings[-1].queue_ms)
    assert queue_ms == pytest.approx([0.0, 9_000.0, 14_000.0, 0.0])


def test_a_step_of_another_epoch_ends_the_session():
    bench = last_stage(nothing)
    bench.before.items.put(StepMessage(step(0, epoch=Epoch(2))))
    with pytest.raises(StaleEpoch, match="a step of epoch 2 came to stage 1 of epoch 1"):
        next(bench.session.results())
    assert isinstance(bench.session.error, StaleEpoch)


def test_a_step_that_cannot_be_computed_fails_alone():
    def refuse(message: StepMessage) -> StageOutput:
        raise MalformedStep("no such sequence")

    bench = last_stage(refuse)
    results = bench.session.results()
    for step_id in range(2):
        bench.before.items.put(StepMessage(step(step_id)))
        failure = next(results).failure
        assert failure is not None
        assert str(failure.error) == "no such sequence"
    assert bench.session.error is None


async def test_a_bug_ends_the_session_and_every_answer_with_it(caplog: pytest.LogCaptureFixture):
    def fail(message: StepMessage) -> StageOutput:
        raise RuntimeError("no such kernel")

    bench = Bench(fail, stage=0, num_stages=1)
    bench.start()
    with caplog.at_level(logging.ERROR), pytest.raises(ExoLiteError, match=r"stage 0 failed: .*no such kernel"):
        await ask(bench, 3)
    assert "no such kernel" in caplog.text
    assert isinstance(bench.session.error, ExoLiteError)


def test_a_later_stage_ends_when_nobody_takes_what_it_computes():
    bench = last_stage(nothing)
    results = bench.session.results()
    bench.session.break_off()
    with pytest.raises(NodeLost, match="attic stopped reading the output of stage 1"):
        next(results)


async def test_the_driver_waits_for_the_reason_before_it_ends_on_a_stream_that_broke_off():
    bench = first_stage(nothing)
    bench.start()
    bench.session.break_off()
    assert bench.session.error is None
    bench.session.end(NodeLost("cellar was killed"))
    assert str(bench.session.error) == "cellar was killed"
    bench.session.break_off()
    assert str(bench.session.error) == "cellar was killed"


async def test_the_driver_does_not_wait_for_ever(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(session_module, "REASON_WITHIN_S", 0.01)
    bench = first_stage(nothing)
    bench.start()
    bench.session.break_off()
    error = await until(lambda: bench.session.error, "the session has ended")
    assert str(error) == "attic stopped reading the output of stage 0: the connection between the two broke"


def _take(bench: Bench, seconds: float) -> StageOutput:
    bench.now_s += seconds
    return StageOutput()


def test_the_stage_starts_anew_before_the_first_step_and_on_the_thread_that_computes_it():
    bench = first_stage(nothing)
    outputs = bench.session.steps()
    assert bench.starts == []
    for step_id in range(2):
        bench.now_s += 1
        bench.session.enqueue(step(step_id))
        next(outputs)
    assert bench.starts == [1.0]
    bench.session.end(NodeLost("the test is over"))


def test_a_step_has_an_age_while_it_is_computed():
    ages: list[float] = []

    def compute(message: StepMessage) -> StageOutput:
        bench.now_s += 7
        ages.append(bench.session.step_age_s)
        return StageOutput()

    bench = first_stage(compute)
    outputs = bench.session.steps()
    bench.session.enqueue(step(0))
    next(outputs)
    assert (ages, bench.session.step_age_s) == ([7.0], 0.0)
    bench.session.end(NodeLost("the test is over"))


def test_whoever_asks_is_told_of_the_end_once_and_at_once_if_it_is_over():
    bench, told = first_stage(nothing), list[str]()
    bench.session.when_ended(lambda: told.append("waited"))
    assert told == []
    bench.session.end(NodeLost("the placement changed"))
    bench.session.end(NodeLost("again"))
    bench.session.when_ended(lambda: told.append("late"))
    assert told == ["waited", "late"]


class Ring:
    """A first stage, the thread that takes what it computes, and a tail that draws fives for it."""

    def __init__(self) -> None:
        self.threads: list[str] = []
        self.step_ids: list[int] = []
        self.bench = first_stage(self.compute)
        outputs = self.bench.session.steps(self.send)
        self.thread = Thread(target=self.take, args=(outputs,), name="taker", daemon=True)
        self.thread.start()
        self.bench.start()

    def compute(self, message: StepMessage) -> StageOutput:
        self.threads.append(current_thread().name)
        return StageOutput()

    def take(self, outputs: Iterator[StepMessage]) -> None:
        with suppress(NodeLost):
            for message in outputs:
                self.send(message)

    def send(self, message: StepMessage) -> None:
        self.step_ids.append(message.step.step_id)
        drawn = tuple(SampledToken(chunk.sequence_index, 5) for chunk in message.step.chunks if chunk.num_draws)
        self.bench.tail.items.put(StepResult(EPOCH, message.step.step_id, drawn, message.timings))

    def end(self) -> None:
        self.bench.session.end(NodeLost("the test is over"))
        self.thread.join(10)


async def test_the_thread_that_brings_results_computes_the_only_step_under_way():
    ring = Ring()
    assert await ask(ring.bench, 5) == [5] * 5
    ring.end()
    assert ring.threads == ["taker", *["results"] * 4]


async def test_no_step_is_lost_or_overtaken_however_many_are_under_way():
    ring = Ring()
    answers = [ask(ring.bench, 40, name=f"r{number}") for number in range(6)]
    assert await asyncio.wait_for(asyncio.gather(*answers), 30) == [[5] * 40] * 6
    ring.end()
    assert ring.step_ids == list(range(len(ring.step_ids)))


class Newcomer:
    """In place of a driver: a result leads to step 1, and before anything else happens a request to step 2."""

    def __init__(self, session: Session, num_in_flight: int) -> None:
        self.num_in_flight = 1
        self._session = session
        self._num_after = num_in_flight

    def on_result(self, result: StepResult) -> None:
        self.num_in_flight = self._num_after
        self._session.enqueue(step(1))
        other = Thread(target=self._session.enqueue, args=(step(2),))
        other.start()
        other.join(10)

    def settle(self) -> None:
        pass


@pytest.mark.parametrize("num_in_flight", [1, 2])
def test_a_newcomer_s_step_does_not_overtake_the_one_that_a_result_led_to(num_in_flight: int):
    session, order = first_stage(nothing).session, list[int]()
    outputs = session.steps(lambda message: order.append(message.step.step_id))
    session.driver = driver = cast(Driver, Newcomer(session, num_in_flight))
    session._take_result(driver, StepResult(EPOCH, 0, (), ()))
    while len(order) < 2:
        order.append(next(outputs).step.step_id)
    assert order == [1, 2]
