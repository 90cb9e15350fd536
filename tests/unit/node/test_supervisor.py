"""Tasks that fail: they go on, they say so in few words, and nothing else ends with them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

import pytest

from exo_lite.domain.repeats import Backoff
from exo_lite.node.supervisor import LINES_EACH, SOUND_AFTER_S, Supervisor
from tests.set_clock import SetClock


class Time(SetClock):
    """A clock that only sleeping moves."""

    def __init__(self) -> None:
        super().__init__()
        self.slept_s: list[float] = []

    async def sleep(self, pause_s: float) -> None:
        self.slept_s.append(pause_s)
        self.now_s += pause_s


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def supervisor(time: Time) -> Supervisor:
    return Supervisor(time, backoff=Backoff(1.0, 8.0), sleep=time.sleep)


def failing(num_times: int, error: Callable[[], Exception]) -> Callable[[], asyncio.Future[None]]:
    """Work that fails so many times, then returns."""
    left = num_times

    async def work() -> None:
        nonlocal left
        left -= 1
        if left >= 0:
            raise error()

    return lambda: asyncio.ensure_future(work())


async def test_work_that_fails_is_done_again_after_pauses_that_grow(supervisor: Supervisor, time: Time):
    await supervisor.keep("a task", failing(6, lambda: OSError(24, "Too many open files")))
    assert time.slept_s == [1.0, 2.0, 4.0, 8.0, 8.0, 8.0]


async def test_pauses_begin_anew_after_a_time_without_failure(supervisor: Supervisor, time: Time):
    runs: list[float] = []

    async def work() -> None:
        runs.append(time.now_s)
        if len(runs) == 3:
            time.now_s += SOUND_AFTER_S
        if len(runs) < 5:
            raise ValueError("no")

    await supervisor.keep("a task", work)
    assert time.slept_s == [1.0, 2.0, 1.0, 2.0]


async def test_failures_are_told_with_cause_and_place_but_not_each_of_them(
    supervisor: Supervisor, time: Time, caplog: pytest.LogCaptureFixture
):
    await supervisor.keep("the listing", failing(1000, lambda: OSError(24, "Too many open files")))
    records = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert {record.getMessage() for record in records} == {"the listing failed, and goes on"}
    assert records[0].__dict__["cause"] == "OSError: [Errno 24] Too many open files"
    assert "test_supervisor.py" in records[0].__dict__["place"]
    assert all(record.exc_info is None for record in records)
    left_out = sum(record.__dict__.get("left_out", 0) for record in records)
    assert 900 < left_out + len(records) <= 1000
    num_spans = time.now_s / 30 + 1
    assert len(records) <= LINES_EACH * num_spans


async def test_a_task_that_fails_leaves_its_neighbours_alone(supervisor: Supervisor):
    ended = asyncio.Event()

    async def neighbour() -> None:
        await asyncio.sleep(0)
        ended.set()

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(supervisor.contain("one", failing(1, lambda: KeyError("x"))()))
        tasks.create_task(supervisor.contain("its neighbour", neighbour()))
    assert ended.is_set()


async def test_a_cancelled_task_ends(supervisor: Supervisor):
    for make in (supervisor.keep("a task", asyncio.Event().wait), supervisor.contain("one", asyncio.Event().wait())):  # type: ignore[arg-type]  # what it returns does not matter
        task = asyncio.ensure_future(make)
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


def test_a_function_whose_failures_stay_its_own(supervisor: Supervisor):
    seen: list[int] = []

    def record(number: int) -> None:
        seen.append(number)
        if number == 1:
            raise RuntimeError("no")

    guarded = supervisor.contained("a listener", record)
    for number in range(3):
        guarded(number)
    assert seen == [0, 1, 2]


async def test_what_the_event_loop_found_is_told_without_what_may_be_a_prompt(
    supervisor: Supervisor, caplog: pytest.LogCaptureFixture
):
    loop = asyncio.get_running_loop()
    supervisor.on_loop_error(loop, {"message": "a task's error", "exception": ValueError("my secret prompt")})
    supervisor.on_loop_error(loop, {"message": "accepting", "exception": OSError(24, "Too many open files")})
    supervisor.on_loop_error(loop, {"message": "something else"})
    causes = [record.__dict__["cause"] for record in caplog.records]
    assert causes == ["ValueError", "OSError: [Errno 24] Too many open files", "RuntimeError"]
