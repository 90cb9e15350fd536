"""The driver with a scripted pipeline behind it: what is sent is written down, results come when the test says so."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import pytest

from exo_lite.domain.errors import DeadlineExceeded, InvalidRequest, MalformedStep, NodeLost, QueueFull, StaleEpoch
from exo_lite.domain.ids import Epoch
from exo_lite.domain.request import Token
from exo_lite.domain.step import SampledToken, StageTiming, Step, StepFailure, StepResult
from exo_lite.pipeline.driver import AVERAGE_WEIGHT, RATE_WINDOW_S, Driver
from exo_lite.pipeline.scheduler import Scheduler
from exo_lite.pipeline.trace_ring import MAX_TRACED_REQUESTS
from tests.unit.pipeline.asking import asking
from tests.unit.pipeline.scheduling import STOP, request


class Pipeline:
    """A driver, the steps that it sent and a clock that stands still until moved."""

    def __init__(self, *, num_stages: int = 2, num_sequences: int = 4, max_waiting: int = 8) -> None:
        self.now_s = 100.0
        self.sent: list[Step] = []
        self.scheduler = Scheduler(
            epoch=Epoch(1),
            num_stages=num_stages,
            num_sequences=num_sequences,
            context_length=2048,
            vocab_size=1000,
            max_waiting=max_waiting,
        )
        self.driver = Driver(self.scheduler, self.sent.append, num_stages=num_stages, clock=lambda: self.now_s)

    @property
    def proved_at_s(self) -> float | None:
        return self.driver.proved_at_s

    def answer(self, token_id: int = 5, timings: tuple[StageTiming, ...] = ()) -> None:
        """The result of the oldest step that is under way."""
        step = self.sent.pop(0)
        drawn = tuple(
            SampledToken(chunk.sequence_index, token_id) for chunk in step.chunks if chunk.sample_index is not None
        )
        self.driver.on_result(StepResult(step.epoch, step.step_id, drawn, timings))
        self.driver.settle()

    def fail_step(self, message: str) -> None:
        step = self.sent.pop(0)
        failure = StepFailure(MalformedStep.code, message)
        self.driver.on_result(StepResult(step.epoch, step.step_id, (), (), failure))
        self.driver.settle()


async def started(tokens: AsyncGenerator[Token, None]) -> asyncio.Future[Token]:
    """The wait for a generator's next token, with the generator run up to it."""
    waiting = asyncio.ensure_future(anext(tokens))
    await asyncio.sleep(0)
    assert not waiting.done() or waiting.exception() is not None
    return waiting


async def test_tokens_come_in_order_and_end_with_the_reason():
    pipeline = Pipeline()
    tokens = pipeline.driver.generate(request("a", max_tokens=2))
    first = await started(tokens)
    pipeline.answer(token_id=7)
    assert await first == Token(0, 7)
    second = await started(tokens)
    pipeline.answer(token_id=8)
    assert await second == Token(1, 8, "length")
    with pytest.raises(StopAsyncIteration):
        await anext(tokens)
    assert (pipeline.driver.num_running, pipeline.sent) == (0, [])


async def test_tokens_that_nobody_fetched_yet_are_kept_in_order():
    pipeline = Pipeline()
    tokens = pipeline.driver.generate(request("a", max_tokens=9))
    first = await started(tokens)
    for token_id in (1, 2, STOP):
        pipeline.answer(token_id)
    assert [await first, *[token async for token in tokens]] == [Token(0, 1), Token(1, 2), Token(2, STOP, "stop")]


async def test_closing_an_answer_cancels_its_request_and_lets_the_next_one_in():
    pipeline = Pipeline(num_sequences=1)
    tokens = pipeline.driver.generate(request("a"))
    first = await started(tokens)
    waiting = await started(pipeline.driver.generate(request("b")))
    assert (pipeline.driver.num_running, pipeline.driver.num_waiting) == (1, 1)
    pipeline.answer()
    await first
    await tokens.aclose()
    assert (pipeline.driver.num_running, pipeline.driver.num_waiting) == (1, 0)
    pipeline.answer()  # a's second token, which nobody waits for
    pipeline.answer(token_id=6)
    assert await waiting == Token(0, 6)


async def test_an_answer_that_is_cancelled_while_it_waits_frees_its_place_in_the_queue():
    pipeline = Pipeline(num_sequences=1)
    running = await started(pipeline.driver.generate(request("a")))
    waiting = await started(pipeline.driver.generate(request("b")))
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert (pipeline.driver.num_running, pipeline.driver.num_waiting) == (1, 0)
    pipeline.answer()
    await running


async def test_a_failed_step_ends_its_own_requests_with_its_error():
    pipeline = Pipeline()
    failing = await started(pipeline.driver.generate(request("a")))
    other = await started(pipeline.driver.generate(request("b")))
    pipeline.fail_step("sequence 0 is not within 0..3")
    with pytest.raises(MalformedStep, match="sequence 0 is not within"):
        await failing
    pipeline.answer(token_id=6)
    assert await other == Token(0, 6)
    third = await started(pipeline.driver.generate(request("c")))
    while not third.done():
        pipeline.answer(token_id=7)
        await asyncio.sleep(0)
    assert await third == Token(0, 7)


async def test_the_end_of_the_pipeline_ends_all_requests_and_refuses_new_ones():
    pipeline = Pipeline(num_sequences=1)
    tokens = pipeline.driver.generate(request("a"))
    running = await started(tokens)
    waiting = await started(pipeline.driver.generate(request("b")))
    num_sent = len(pipeline.sent)
    pipeline.driver.fail(NodeLost("attic (10.0.0.7:1) did not answer"))
    for answer in (running, waiting):
        with pytest.raises(NodeLost, match="attic"):
            await answer
    with pytest.raises(NodeLost, match="attic"):
        await anext(pipeline.driver.generate(request("c")))
    pipeline.driver.prove_if_idle()
    pipeline.answer()
    assert (len(pipeline.sent), pipeline.driver.num_running, pipeline.driver.num_waiting) == (num_sent - 1, 0, 0)


async def test_tokens_that_came_before_the_end_are_delivered_before_the_error():
    pipeline = Pipeline()
    tokens = pipeline.driver.generate(request("a"))
    first = await started(tokens)
    pipeline.answer(token_id=1)
    pipeline.answer(token_id=2)
    pipeline.driver.fail(NodeLost("gone"))
    assert [await first, await anext(tokens)] == [Token(0, 1), Token(1, 2)]
    with pytest.raises(NodeLost):
        await anext(tokens)


async def test_what_the_scheduler_refuses_is_raised_and_leaves_nothing():
    pipeline = Pipeline(num_sequences=1, max_waiting=0)
    with pytest.raises(StaleEpoch):
        await anext(pipeline.driver.generate(request("a", epoch=2)))
    with pytest.raises(InvalidRequest):
        await anext(pipeline.driver.generate(request("a", max_tokens=0)))
    running = await started(pipeline.driver.generate(request("a")))
    with pytest.raises(QueueFull):
        await anext(pipeline.driver.generate(request("b")))
    pipeline.answer(STOP)
    assert (await running).finish_reason == "stop"


async def test_a_second_request_of_the_same_name_is_refused_and_the_first_undisturbed():
    pipeline = Pipeline()
    first = await started(pipeline.driver.generate(request("a")))
    with pytest.raises(InvalidRequest, match="request a is already running"):
        await anext(pipeline.driver.generate(request("a")))
    pipeline.answer(token_id=3)
    assert await first == Token(0, 3)
    assert pipeline.driver.num_running == 1


async def test_a_result_that_misses_a_token_ends_the_request_instead_of_leaving_it_waiting():
    pipeline = Pipeline()
    answer = await started(pipeline.driver.generate(request("a")))
    step = pipeline.sent.pop(0)
    pipeline.driver.on_result(StepResult(step.epoch, step.step_id, (), ()))
    pipeline.driver.settle()
    with pytest.raises(MalformedStep, match=r"tokens for sequences \[0\], it brought \[\]"):
        await answer
    assert pipeline.driver.num_running == 0


async def test_hop_time_is_what_the_stages_do_not_account_for():
    pipeline = Pipeline(num_stages=2)
    await started(pipeline.driver.generate(request("a", max_tokens=50)))
    pipeline.now_s += 0.050
    pipeline.answer(timings=(StageTiming(1.0, 20.0), StageTiming(0.0, 9.0)))
    assert pipeline.driver.hop_ms == pytest.approx(10.0)
    pipeline.now_s += 0.100
    pipeline.answer(timings=(StageTiming(0.0, 30.0), StageTiming(0.0, 10.0)))
    assert pipeline.driver.hop_ms == pytest.approx(10.0 + AVERAGE_WEIGHT * (30.0 - 10.0))


async def test_idle_since_the_last_request_left_and_not_while_there_are_some():
    pipeline = Pipeline()
    pipeline.now_s += 3
    assert pipeline.driver.idle_s == 3
    answer = pipeline.driver.generate(request("a", max_tokens=1))
    upcoming = asyncio.ensure_future(anext(answer))
    await asyncio.sleep(0)
    pipeline.now_s += 5
    assert pipeline.driver.idle_s == 0
    assert pipeline.driver.num_free_kv_blocks == pipeline.driver.num_kv_blocks - 1
    pipeline.answer()
    await upcoming
    await answer.aclose()
    pipeline.now_s += 2
    assert pipeline.driver.idle_s == 2
    assert pipeline.driver.num_free_kv_blocks == pipeline.driver.num_kv_blocks


async def test_stages_that_count_more_than_the_clock_leave_nothing_for_hops():
    pipeline = Pipeline(num_stages=2)
    await started(pipeline.driver.generate(request("a")))
    pipeline.answer(timings=(StageTiming(5.0, 5.0), StageTiming(0.0, 1.0)))
    assert pipeline.driver.hop_ms == 0.0


async def test_a_single_stage_has_no_hops():
    pipeline = Pipeline(num_stages=1)
    await started(pipeline.driver.generate(request("a")))
    pipeline.now_s += 1.0
    pipeline.answer(timings=(StageTiming(0.0, 1.0),))
    assert pipeline.driver.hop_ms is None


async def test_the_rate_counts_the_tokens_of_the_last_seconds():
    pipeline = Pipeline()
    await started(pipeline.driver.generate(request("a", max_tokens=50)))
    assert pipeline.driver.tokens_per_second == 0.0
    for _ in range(10):
        pipeline.answer()
        pipeline.now_s += 0.1
    assert pipeline.driver.tokens_per_second == pytest.approx(10 / RATE_WINDOW_S)
    pipeline.now_s = 100.45 + RATE_WINDOW_S  # five tokens are older by now
    assert pipeline.driver.tokens_per_second == pytest.approx(5 / RATE_WINDOW_S)
    pipeline.now_s += RATE_WINDOW_S
    assert pipeline.driver.tokens_per_second == 0.0


async def test_an_idle_driver_proves_its_hops_and_a_busy_one_does_not():
    pipeline = Pipeline()
    before = pipeline.proved_at_s
    pipeline.driver.prove_if_idle()
    pipeline.driver.prove_if_idle()
    assert [step.num_tokens for step in pipeline.sent] == [0]
    pipeline.now_s = 107.0
    pipeline.answer()
    assert (before, pipeline.proved_at_s) == (None, 107.0)
    await started(pipeline.driver.generate(request("a")))
    pipeline.driver.prove_if_idle()
    assert [step.num_tokens for step in pipeline.sent] == [3]


async def test_a_failed_step_proves_nothing():
    pipeline = Pipeline()
    pipeline.driver.prove_if_idle()
    pipeline.fail_step("overflow")
    assert pipeline.proved_at_s is None
    pipeline.driver.prove_if_idle()
    assert len(pipeline.sent) == 1


async def test_results_of_steps_that_nobody_sent_change_nothing():
    pipeline = Pipeline()
    waiting = await started(pipeline.driver.generate(request("a")))
    pipeline.driver.on_result(StepResult(Epoch(1), 77, (SampledToken(0, 1),), (StageTiming(0.0, 1.0),)))
    pipeline.driver.settle()
    pipeline.driver.on_result(StepResult(Epoch(1), 78, (), (), StepFailure("malformed_step", "?")))
    pipeline.driver.settle()
    assert not waiting.done()
    assert pipeline.proved_at_s is None
    pipeline.answer(token_id=4)
    assert await waiting == Token(0, 4)


async def test_an_answer_that_takes_too_long_ends_and_frees_everything():
    pipeline = Pipeline(num_sequences=1)
    slow = pipeline.driver.generate(asking(request("a"), timeout_s=1e-9))
    with pytest.raises(DeadlineExceeded, match="not complete within the 1e-09 s allowed"):
        await anext(slow)
    assert pipeline.driver.num_running == 0
    waiting = await started(pipeline.driver.generate(request("b")))
    pipeline.answer()  # a's, which nobody waits for
    pipeline.answer(token_id=6)
    assert await waiting == Token(0, 6)


async def test_refusals_say_when_half_of_the_line_will_have_run():
    pipeline = Pipeline(num_sequences=1, max_waiting=6)
    answers = [pipeline.driver.generate(request(str(number), max_tokens=1)) for number in range(7)]
    firsts = [await started(tokens) for tokens in answers]
    with pytest.raises(QueueFull) as unknown:
        await anext(pipeline.driver.generate(request("x")))
    assert unknown.value.retry_after_s is None
    for first, tokens in zip(firsts[:3], answers, strict=False):
        pipeline.now_s += 3.0
        pipeline.answer()
        await first
        await tokens.aclose()
    more = [await started(pipeline.driver.generate(request(f"y{number}"))) for number in range(3)]
    with pytest.raises(QueueFull) as known:
        await anext(pipeline.driver.generate(request("x")))
    assert known.value.retry_after_s == 9  # 3 s for each of 3
    assert not any(one.done() for one in more)


async def test_whoever_makes_room_for_another_tenant_is_told():
    pipeline = Pipeline(num_sequences=1, max_waiting=2)
    running = await started(pipeline.driver.generate(request("a")))
    waiting = [await started(pipeline.driver.generate(request(name))) for name in "bc"]
    other = await started(pipeline.driver.generate(asking(request("d"), tenant="other")))
    with pytest.raises(QueueFull, match="other API keys had fewer requests"):
        await waiting[1]
    assert not other.done()
    assert pipeline.driver.num_waiting == 2
    pipeline.answer()
    await running


async def test_the_steps_of_a_request_are_traced():
    pipeline = Pipeline()
    await started(pipeline.driver.generate(request("a")))
    pipeline.now_s += 0.040
    timings = (StageTiming(1.0, 20.0, 0.5), StageTiming(2.0, 15.0, 0.25))
    pipeline.answer(timings=timings)
    pipeline.now_s += 0.030
    pipeline.fail_step("broken")
    [trace] = pipeline.driver.traces
    assert trace.age_s == pytest.approx(0.070)
    assert [(step.num_tokens, step.stages) for step in trace.steps] == [(1, timings), (0, ())]
    assert [step.start_ms for step in trace.steps] == pytest.approx([0.0, 40.0])
    assert [step.duration_ms for step in trace.steps] == pytest.approx([40.0, 30.0])
    assert trace.steps[0].wire_ms == pytest.approx(40.0 - 38.75)


async def test_only_the_last_requests_are_traced():
    pipeline = Pipeline(num_sequences=1)
    for number in range(MAX_TRACED_REQUESTS + 2):
        pipeline.now_s += 1.0
        token = await started(pipeline.driver.generate(request(str(number), max_tokens=1)))
        pipeline.answer()
        await token
        await asyncio.sleep(0)
    traces = pipeline.driver.traces
    assert len(traces) == MAX_TRACED_REQUESTS
    assert [trace.age_s for trace in traces] == list(range(MAX_TRACED_REQUESTS))
