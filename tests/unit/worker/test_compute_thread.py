"""The thread that computes: one job after the other, whoever submits them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import pytest

from exo_lite.domain.errors import InvalidModel
from exo_lite.worker.compute_thread import ComputeThread
from tests.waiting import until


@pytest.fixture
def thread() -> Iterator[ComputeThread]:
    thread = ComputeThread()
    yield thread
    thread.stop()


async def test_jobs_are_done_one_by_one_in_their_order_on_a_thread_of_their_own(thread: ComputeThread):
    done: list[tuple[int, threading.Thread]] = []
    for number in range(100):
        thread.submit(lambda number=number: done.append((number, threading.current_thread())))  # type: ignore[misc]
    assert await thread.run(lambda: "last") == "last"
    assert [number for number, _ in done] == list(range(100))
    assert len({by for _, by in done} - {threading.current_thread()}) == 1


async def test_whoever_waits_gets_the_error(thread: ComputeThread):
    def fail() -> None:
        raise InvalidModel("a damaged file")

    with pytest.raises(InvalidModel, match="a damaged file"):
        await thread.run(fail)
    assert await thread.run(lambda: 1) == 1


async def test_what_was_cancelled_before_its_turn_is_not_done(thread: ComputeThread):
    may_go_on, done = threading.Event(), list[str]()
    thread.submit(lambda: _wait(may_go_on))
    waiting = asyncio.ensure_future(thread.run(lambda: done.append("cancelled")))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait({waiting})
    may_go_on.set()
    await thread.run(lambda: done.append("another"))
    assert done == ["another"]


async def test_a_stopped_one_does_what_came_before_and_ends():
    before = set(threading.enumerate())
    thread, done = ComputeThread(), list[int]()
    thread.submit(lambda: done.append(1))
    thread.stop()
    await until(lambda: not set(threading.enumerate()) - before, "the thread has ended")
    assert done == [1]


def _wait(event: threading.Event) -> None:
    event.wait(timeout=10)
