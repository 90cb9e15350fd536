"""A stage's session without a network: the test is its compute thread."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable

import pytest

from exo_lite.domain.errors import ExoLiteError, MalformedStep, NodeLost
from exo_lite.domain.ids import Epoch, ModelId, RequestId
from exo_lite.domain.pipeline import ConnectOrder, Hop
from exo_lite.domain.request import GenerateRequest, Sampling
from exo_lite.domain.step import SampledToken, SequenceChunk, StageTiming, Step, StepMessage, StepResult
from exo_lite.pipeline.head import Head
from exo_lite.pipeline.scheduler import Scheduler
from exo_lite.pipeline.stage import StageOutput
from exo_lite.worker.session import MAX_WAITING_PER_STAGE, Session

NOWHERE = Hop("nowhere", "127.0.0.1:9")
Compute = Callable[[StepMessage], StageOutput]


class SentResults:
    """In place of the stream to the head."""

    def __init__(self) -> None:
        self.results: list[StepResult] = []

    def send(self, result: StepResult) -> None:
        self.results.append(result)

    def close(self) -> None:
        pass


class Bench:
    """A session whose steps are computed when the test says so."""

    def __init__(self, compute: Compute, *, stage: int, num_stages: int) -> None:
        order = ConnectOrder(ModelId("m"), Epoch(1), stage, num_stages, None, NOWHERE if stage else None)
        self.jobs: list[Callable[[], None]] = []
        self.now_s = 0.0
        self.session = Session(order, compute, self.jobs.append, max_message_bytes=2**20, clock=lambda: self.now_s)
        self.sent = SentResults()
        if stage:
            self.session._results_out = self.sent  # type: ignore[assignment]

    def compute_all(self) -> None:
        while self.jobs:
            self.jobs.pop(0)()


def later_stage(compute: Compute = lambda message: StageOutput()) -> Bench:
    return Bench(compute, stage=1, num_stages=2)


def whole_pipeline(compute: Compute) -> Bench:
    bench = Bench(compute, stage=0, num_stages=1)
    scheduler = Scheduler(epoch=Epoch(1), num_stages=1, num_slots=2, context_length=64, vocab_size=100)
    bench.session.head = Head(scheduler, bench.session.enqueue, num_stages=1, clock=lambda: bench.now_s)
    return bench


async def steps(number: int) -> AsyncIterator[StepMessage]:
    for step_id in range(number):
        yield StepMessage(Step(Epoch(1), step_id))


def draw_five(message: StepMessage) -> StageOutput:
    return StageOutput(tokens=tuple(SampledToken(chunk.slot, 5) for chunk in message.step.chunks))


def ask(bench: Bench, num_tokens: int) -> asyncio.Future[list[int]]:
    async def collect() -> list[int]:
        assert bench.session.head is not None
        request = GenerateRequest(RequestId("r"), ModelId("m"), Epoch(1), 0, (1, 2), num_tokens, Sampling())
        return [token.token_id async for token in bench.session.head.generate(request)]

    return asyncio.ensure_future(collect())


async def test_a_pipeline_of_one_stage_feeds_itself():
    bench = whole_pipeline(draw_five)
    answer = ask(bench, 3)
    while not answer.done():
        bench.compute_all()
        await asyncio.sleep(0)
    assert answer.result() == [5, 5, 5]


async def test_more_steps_than_a_sound_head_sends_end_their_stream():
    bench, most = later_stage(), 2 * MAX_WAITING_PER_STAGE
    with pytest.raises(MalformedStep, match=f"{most} steps wait at stage 1"):
        await bench.session.take_steps(steps(most + 1))
    assert len(bench.jobs) == most
    bench.compute_all()
    assert [result.step_id for result in bench.sent.results] == list(range(most))
    await bench.session.take_steps(steps(most))
    assert len(bench.jobs) == most


async def test_steps_that_wait_when_the_session_ends_are_not_computed():
    computed: list[StepMessage] = []

    def compute(message: StepMessage) -> StageOutput:
        computed.append(message)
        return StageOutput()

    bench = later_stage(compute)
    await bench.session.take_steps(steps(2))
    bench.session.end(NodeLost("the placement changed"))
    bench.compute_all()
    assert computed == []
    bench.session.enqueue(Step(Epoch(1), 3))
    assert bench.jobs == []
    with pytest.raises(NodeLost, match="the placement changed"):
        await bench.session.take_steps(steps(1))


async def test_only_the_computing_is_measured_as_such():
    bench = later_stage(lambda message: _take(bench, 0.25))
    bench.session.enqueue(Step(Epoch(1), 0, chunks=(SequenceChunk(0, 0, 1),)))
    bench.now_s += 3.0  # in the queue
    bench.compute_all()
    assert bench.session.compute_ms == pytest.approx(250.0)
    assert [result.timings for result in bench.sent.results] == [(StageTiming(3000.0, 250.0),)]


async def test_a_bug_ends_the_session_and_every_answer_with_it(caplog: pytest.LogCaptureFixture):
    def fail(message: StepMessage) -> StageOutput:
        raise RuntimeError("no such kernel")

    bench = whole_pipeline(fail)
    answer = ask(bench, 3)
    await asyncio.sleep(0)
    with caplog.at_level(logging.ERROR):
        bench.compute_all()
    with pytest.raises(ExoLiteError, match=r"stage 0 failed: .*no such kernel"):
        await answer
    assert "no such kernel" in caplog.text
    assert isinstance(bench.session.error, ExoLiteError)


def _take(bench: Bench, seconds: float) -> StageOutput:
    bench.now_s += seconds
    return StageOutput()
