"""A slow step is no loss, and a lost neighbour is noticed in the middle of one."""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from exo_lite.domain.errors import NodeLost
from exo_lite.domain.worker import DEFAULT_HANG_TIMEOUT_S, WorkerConfig
from tests.integration.real_workers import (
    N_LAYERS,
    TinyLlama,
    answer,
    config_for,
    join,
    make_tiny_llama,
    request,
    running,
)
from tests.waiting import until

PROMPT = (5, 17, 60, 2, 33, 90, 41)
NOTICED_WITHIN_S = DEFAULT_HANG_TIMEOUT_S + 3.0
"""A hung process is to be noticed within five seconds; the rest is for a busy machine."""
HALF = N_LAYERS // 2

Slow = Callable[[float], None]


@pytest.fixture(scope="module")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> TinyLlama:
    return make_tiny_llama(tmp_path_factory.mktemp("models") / "tiny-llama")


@pytest.fixture
def slow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Slow:
    """Give the workers that start from now on so many seconds more for each step."""

    def slow_down(step_s: float) -> None:
        program = tmp_path / "slow-python"
        program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m tests.integration.slow_worker\n', encoding="utf-8")
        program.chmod(0o700)
        monkeypatch.setenv("SLOW_STEP_S", str(step_s))
        monkeypatch.setattr(sys, "executable", str(program))

    return slow_down


def halves(tiny_llama: TinyLlama, hang_timeout_s: float = DEFAULT_HANG_TIMEOUT_S) -> tuple[WorkerConfig, WorkerConfig]:
    front = config_for("front", tiny_llama.path, 0, HALF - 1)
    back = config_for("back", tiny_llama.path, HALF, N_LAYERS - 1)
    return replace(front, hang_timeout_s=hang_timeout_s), replace(back, hang_timeout_s=hang_timeout_s)


@pytest.mark.timeout(120)
async def test_steps_that_take_longer_than_a_silence_may_are_answered(tiny_llama: TinyLlama, slow: Slow):
    slow(1.5 * DEFAULT_HANG_TIMEOUT_S)
    async with running(*halves(tiny_llama)) as [front, back]:
        epoch = await join(front, back)
        assert await answer(front, request(epoch, PROMPT, 2)) == tiny_llama.greedy(PROMPT, 2)


@pytest.mark.long
@pytest.mark.timeout(400)
async def test_steps_of_thirty_seconds_are_answered(tiny_llama: TinyLlama, slow: Slow):
    slow(30.0)
    async with running(*halves(tiny_llama)) as [front, back]:
        epoch = await join(front, back)
        assert await answer(front, request(epoch, PROMPT, 3)) == tiny_llama.greedy(PROMPT, 3)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "hung"])
async def test_a_neighbour_that_is_lost_in_the_middle_of_a_step_is_noticed(
    tiny_llama: TinyLlama, slow: Slow, sign: signal.Signals
):
    slow(60.0)
    async with running(*halves(tiny_llama)) as [front, back]:
        epoch = await join(front, back)
        asked = asyncio.ensure_future(answer(front, request(epoch, PROMPT, 2)))
        await until(lambda: front.driver.num_running > 0, "the front computes")
        back.program().send_signal(sign)
        lost_at_s = time.monotonic()
        with pytest.raises(NodeLost, match="back"):
            await asked
        assert time.monotonic() - lost_at_s < NOTICED_WITHIN_S
        await until(lambda: back.status.state == "lost", "its daemon knows")


@pytest.mark.timeout(120)
@pytest.mark.parametrize("stopped", [0, 1], ids=["front", "back"])
async def test_a_short_pause_of_a_process_costs_no_answer(tiny_llama: TinyLlama, stopped: int):
    async with running(*halves(tiny_llama)) as workers:
        front, back = workers
        epoch = await join(front, back)
        asked = asyncio.ensure_future(answer(front, request(epoch, PROMPT, 400)))
        await until(lambda: front.driver.num_running > 0, "it answers")
        program = workers[stopped].program()
        program.send_signal(signal.SIGSTOP)
        await asyncio.sleep(0.75 * DEFAULT_HANG_TIMEOUT_S)  # the pause itself
        program.send_signal(signal.SIGCONT)
        assert await asked == tiny_llama.greedy(PROMPT, 400)


@pytest.mark.timeout(120)
async def test_with_a_flag_a_debugger_may_stop_a_worker_for_longer(tiny_llama: TinyLlama):
    await _answered_over_a_pause(tiny_llama, pause_s=2 * DEFAULT_HANG_TIMEOUT_S)


@pytest.mark.long
@pytest.mark.timeout(800)
async def test_with_a_flag_a_debugger_may_stop_a_worker_for_ten_minutes(tiny_llama: TinyLlama):
    await _answered_over_a_pause(tiny_llama, pause_s=600.0)


async def _answered_over_a_pause(tiny_llama: TinyLlama, pause_s: float) -> None:
    async with running(*halves(tiny_llama, hang_timeout_s=4 * pause_s)) as [front, back]:
        epoch = await join(front, back)
        asked = asyncio.ensure_future(answer(front, request(epoch, PROMPT, 400)))
        await until(lambda: front.driver.num_running > 0, "it answers")
        program = back.program()
        program.send_signal(signal.SIGSTOP)
        await asyncio.sleep(pause_s)  # the pause itself
        program.send_signal(signal.SIGCONT)
        assert await asked == tiny_llama.greedy(PROMPT, 400)
