"""Real worker programs: they load, answer as transformers does, refuse what is wrong and end when they have to."""

from __future__ import annotations

import asyncio
import re
import shutil
import signal
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import psutil
import pytest
import pytest_asyncio

from exo_lite.domain.errors import InvalidRequest, MalformedMessage, NodeLost, NotReady, StaleEpoch
from exo_lite.domain.ids import Epoch, ModelId
from exo_lite.domain.pipeline import ConnectOrder, Endpoint
from exo_lite.domain.request import Sampling
from exo_lite.node.joining import CONNECT_TIMEOUT_S
from tests.integration.real_workers import (
    MODEL,
    N_LAYERS,
    NUM_SLOTS,
    RunningWorker,
    TinyLlama,
    answer,
    client_of,
    config_for,
    join,
    make_tiny_llama,
    next_epoch,
    request,
    running,
)
from tests.loopback import PEERS
from tests.stages import reading
from tests.waiting import until

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(120)]

PROMPT = (5, 17, 60, 2, 33, 90, 41)
LONG = 480
"""Tokens of an answer that is still under way when something happens to it."""


@pytest.fixture(scope="module")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> TinyLlama:
    return make_tiny_llama(tmp_path_factory.mktemp("models") / MODEL)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def workers(tiny_llama: TinyLlama) -> AsyncIterator[dict[str, RunningWorker]]:
    """One that holds the whole model, and two that hold a half each. Every test joins them anew."""
    half = N_LAYERS // 2
    configs = (
        config_for("whole", tiny_llama.path),
        config_for("front", tiny_llama.path, 0, half - 1),
        config_for("back", tiny_llama.path, half, N_LAYERS - 1),
    )
    async with running(*configs) as all_workers:
        yield {worker.name: worker for worker in all_workers}


async def test_a_worker_loads_with_progress_and_becomes_ready(workers: dict[str, RunningWorker]):
    for worker in workers.values():
        loading = [status.report.progress for status in worker.history if status.state == "loading"]
        assert all(before <= after for before, after in pairwise([0.0, *loading, 1.0]))
        first_ready = next(status for status in worker.history if status.state == "ready")
        assert (first_ready.report.progress, first_ready.failure) == (1.0, None)
        assert first_ready.shard == worker.process.config.shard
        sizes = (first_ready.weight_bytes, first_ready.kv_cache_bytes, first_ready.working_bytes)
        assert sizes == (1, 2, 3)


@pytest.mark.parametrize("stages", [("whole",), ("front", "back")])
async def test_a_pipeline_answers_as_transformers_does(
    workers: dict[str, RunningWorker], tiny_llama: TinyLlama, stages: tuple[str, ...]
):
    epoch = await join(*(workers[name] for name in stages))
    first = workers[stages[0]]
    for prompt in (PROMPT, (1,), tuple(range(90)) * 4):  # the last one takes two chunks
        assert await answer(first, request(epoch, prompt, 24)) == tiny_llama.greedy(prompt, 24)


async def test_eight_requests_at_once_get_what_each_gets_alone(
    workers: dict[str, RunningWorker], tiny_llama: TinyLlama
):
    first = workers["front"]
    epoch = await join(first, workers["back"])
    prompts = [tuple((index * 13 + place) % 97 for place in range(3 + 40 * index)) for index in range(2 * NUM_SLOTS)]
    answers = await asyncio.gather(*(answer(first, request(epoch, prompt, 20)) for prompt in prompts))
    assert answers == [tiny_llama.greedy(prompt, 20) for prompt in prompts]


async def test_what_went_through_every_hop_is_measured(workers: dict[str, RunningWorker]):
    first = workers["front"]
    epoch = await join(first, workers["back"])
    await answer(first, request(epoch, PROMPT, 5))
    is_measured = lambda: first.status.report.joined_epoch == epoch and first.driver.hop_ms is not None  # noqa: E731
    await until(is_measured, "hops are measured")
    assert first.status.report.compute_ms is not None
    assert first.driver.proof_age_s is not None
    async with client_of(first) as client:
        newest, *_ = await client.traces(timeout_s=5.0)
    assert [step.num_tokens for step in newest.steps] == [1] * 5
    for step in newest.steps:
        assert [stage.compute_ms > 0 and stage.serialize_ms > 0 for stage in step.stages] == [True, True]
        assert 0 < step.wire_ms < step.duration_ms
    back = await until(lambda: workers["back"].status.report.compute_ms, "the other stage's computing is measured")
    assert back > 0


async def test_an_idle_pipeline_proves_itself(workers: dict[str, RunningWorker]):
    first = workers["front"]
    epoch = await join(first, workers["back"])
    proven = lambda: first.status.report.joined_epoch == epoch and first.driver.proof_age_s is not None  # noqa: E731
    await until(proven, "a proof went through every hop")


@pytest.mark.parametrize("difference", [0, -1])
async def test_a_connect_that_is_not_newer_is_stale(workers: dict[str, RunningWorker], difference: int):
    next_epoch()
    whole = workers["whole"]
    epoch = await join(whole)
    again = ConnectOrder(MODEL, Epoch(epoch + difference), 0, 1, previous=None, tail=None, next_name="whole")
    with pytest.raises(StaleEpoch, match=f"is not newer than {epoch}"):
        await whole.process.peer().connect(again, timeout_s=CONNECT_TIMEOUT_S)
    assert len(await answer(whole, request(epoch, PROMPT, 3))) == 3


async def test_of_two_connects_at_once_with_one_epoch_one_is_taken(workers: dict[str, RunningWorker]):
    whole = workers["whole"]
    order = ConnectOrder(MODEL, next_epoch(), 0, 1, previous=None, tail=None, next_name="whole")
    outcomes = await asyncio.gather(
        *(whole.process.peer().connect(order, timeout_s=CONNECT_TIMEOUT_S) for _ in range(3)),
        return_exceptions=True,
    )
    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["NoneType", "StaleEpoch", "StaleEpoch"]
    assert len(await answer(whole, request(order.epoch, PROMPT, 3))) == 3


NOWHERE = Endpoint("nowhere", "127.0.0.1:9")


@pytest.mark.parametrize(
    "order",
    [
        ConnectOrder(ModelId("another"), Epoch(0), 0, 1, previous=None, tail=None, next_name="whole"),
        ConnectOrder(MODEL, Epoch(0), 0, 0, previous=None, tail=None, next_name="whole"),
        ConnectOrder(MODEL, Epoch(0), 0, 1, previous=NOWHERE, tail=None, next_name="whole"),
        ConnectOrder(MODEL, Epoch(0), 0, 1, previous=None, tail=NOWHERE, next_name="whole"),
        ConnectOrder(MODEL, Epoch(0), 0, 2, previous=None, tail=None, next_name="whole"),
        ConnectOrder(MODEL, Epoch(0), 0, 2, previous=None, tail=NOWHERE, next_name="whole"),
        ConnectOrder(MODEL, Epoch(0), 1, 2, previous=NOWHERE, tail=None, next_name="whole"),
        ConnectOrder(MODEL, Epoch(0), 1, 2, previous=None, tail=None, next_name="whole"),
        ConnectOrder(MODEL, Epoch(0), 3, 2, previous=NOWHERE, tail=None, next_name="whole"),
    ],
    ids=lambda order: f"{order.model_id}-{order.stage}-of-{order.num_stages}",
)
async def test_an_order_for_a_place_that_is_not_this_shards_is_refused(
    workers: dict[str, RunningWorker], order: ConnectOrder
):
    whole = workers["whole"]
    epoch = await join(whole)
    with pytest.raises(MalformedMessage):
        await whole.process.peer().connect(replace(order, epoch=next_epoch()), timeout_s=CONNECT_TIMEOUT_S)
    assert len(await answer(whole, request(epoch, PROMPT, 3))) == 3


@pytest.mark.parametrize("difference", [1, -1])
async def test_a_request_of_another_epoch_is_stale(workers: dict[str, RunningWorker], difference: int):
    next_epoch()
    epoch = await join(workers["whole"])
    with pytest.raises(StaleEpoch):
        await answer(workers["whole"], request(Epoch(epoch + difference), PROMPT, 3))


async def test_prompts_go_to_the_first_stage_only(workers: dict[str, RunningWorker]):
    epoch = await join(workers["front"], workers["back"])
    with pytest.raises(InvalidRequest, match="back is stage 1"):
        await answer(workers["back"], request(epoch, PROMPT, 3))


async def test_tokens_that_the_model_does_not_have_are_refused_and_hurt_nobody(
    workers: dict[str, RunningWorker], tiny_llama: TinyLlama
):
    first = workers["front"]
    epoch = await join(first, workers["back"])
    sound = asyncio.ensure_future(answer(first, request(epoch, PROMPT, 40)))
    plain, sampling = request(epoch, PROMPT, 3), Sampling(temperature=0.0, logit_bias=((97, 1.0),))
    biased = replace(plain, asked=replace(plain.asked, sampling=sampling))
    for bad in (request(epoch, (1, 97), 3), biased):
        with pytest.raises(InvalidRequest, match="token id 97"):
            await answer(first, bad)
    assert await sound == tiny_llama.greedy(PROMPT, 40)


async def test_a_new_epoch_ends_the_answers_of_the_one_before(workers: dict[str, RunningWorker]):
    first = workers["front"]
    epoch = await join(first, workers["back"])
    async with client_of(first) as client, aclosing(client.generate(request(epoch, PROMPT, LONG))) as tokens:
        await anext(tokens)
        newer = await join(first, workers["back"])
        with pytest.raises(NodeLost, match=f"the placement changed to epoch {newer}"):
            async for _ in tokens:
                pass
    assert len(await answer(first, request(newer, PROMPT, 3))) == 3


async def test_cancelling_an_answer_frees_its_slot(workers: dict[str, RunningWorker], tiny_llama: TinyLlama):
    first = workers["front"]
    epoch = await join(first, workers["back"])
    async with client_of(first) as client:
        answers = [client.generate(request(epoch, PROMPT, LONG)) for _ in range(NUM_SLOTS + 2)]
        await asyncio.gather(*(anext(tokens) for tokens in answers[:NUM_SLOTS]))
        upcoming = [asyncio.ensure_future(anext(tokens)) for tokens in answers[NUM_SLOTS:]]
        await until(
            lambda: first.driver.num_running == NUM_SLOTS and first.driver.num_waiting == 2, "all slots are taken"
        )
        for waiting in upcoming:
            waiting.cancel()
        await asyncio.wait(upcoming)
        for tokens in answers:
            await tokens.aclose()
        await until(lambda: (first.driver.num_running, first.driver.num_waiting) == (0, 0), "every slot is free")
    assert await answer(first, request(epoch, PROMPT, 10)) == tiny_llama.greedy(PROMPT, 10)


async def test_a_client_that_vanishes_frees_its_slot(workers: dict[str, RunningWorker]):
    whole = workers["whole"]
    epoch = await join(whole)
    async with client_of(whole) as client:
        tokens = client.generate(request(epoch, PROMPT, LONG))
        await anext(tokens)
    with pytest.raises((asyncio.CancelledError, NodeLost)):
        async for _ in tokens:
            pass
    await until(lambda: whole.status.report.joined_epoch == epoch and whole.driver.num_running == 0, "its slot is free")


async def test_whoever_asks_for_the_steps_of_others_disturbs_nothing(
    workers: dict[str, RunningWorker], tiny_llama: TinyLlama
):
    next_epoch()
    first = workers["front"]
    epoch = await join(first, workers["back"])
    undisturbed = asyncio.ensure_future(answer(first, request(epoch, PROMPT, 60)))
    for other in (epoch - 1, epoch + 1):
        async with reading(PEERS.steps(first.stream_endpoint, Epoch(other))) as read:
            with pytest.raises(StaleEpoch, match=f"front is stage 0 of epoch {epoch}, and was asked .* epoch {other}"):
                await read.next()
    assert await undisturbed == tiny_llama.greedy(PROMPT, 60)


async def test_what_was_joined_often_holds_no_more_than_what_was_joined_once(workers: dict[str, RunningWorker]):
    front, back = workers["front"], workers["back"]

    async def join_and_answer() -> None:
        assert len(await answer(front, request(await join(front, back), PROMPT, 2))) == 2

    def held() -> list[tuple[int, int]]:
        return [(one.program().num_fds(), one.program().num_threads()) for one in (front, back)]

    for _ in range(10):  # streams that end may overlap with the next ones, each on a thread of its own
        await join_and_answer()
    most = [(num_fds + 4, num_threads + 4) for num_fds, num_threads in held()]
    for _ in range(30):
        await join_and_answer()
    is_bounded = lambda: all(now <= bound for now, bound in zip(held(), most, strict=True))  # noqa: E731
    await until(is_bounded, f"files and threads are no more than {most}")


async def test_the_death_of_the_second_worker_ends_the_answer_and_is_told(
    workers: dict[str, RunningWorker], tiny_llama: TinyLlama
):
    front = workers["front"]
    async with running(config_for("cellar", tiny_llama.path, N_LAYERS // 2)) as [cellar]:
        epoch = await join(front, cellar)
        async with client_of(front) as client, aclosing(client.generate(request(epoch, PROMPT, LONG))) as tokens:
            await anext(tokens)
            cellar.program().send_signal(signal.SIGKILL)
            async with asyncio.timeout(5):
                with pytest.raises(NodeLost, match="cellar"):
                    async for _ in tokens:
                        pass
        await until(lambda: cellar.status.state == "lost", "its daemon knows")
        assert cellar.error == "the worker on cellar was killed by signal 9"
        assert (cellar.status.worker_port, cellar.status.stream_port) == (None, None)
        broken = await until(lambda: front.error, "the other worker says what broke")
        assert "cellar" in broken
        with pytest.raises(NodeLost, match="cellar"):
            await answer(front, request(epoch, PROMPT, 3))
    await join(front, workers["back"])
    await until(lambda: front.error is None, "a new pipeline has no error")


async def test_a_worker_ends_when_its_daemon_does(tiny_llama: TinyLlama):
    config = config_for("orphan", tiny_llama.path)
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", "exo_lite.worker", stdin=PIPE, stdout=PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(config.to_json().encode() + b"\n")
        async with asyncio.timeout(30):
            assert (await process.stdout.readline()).startswith(b'{"port": ')
        process.stdin.close()
        async with asyncio.timeout(5):
            assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def test_damaged_weights_are_told_by_name_and_the_worker_stays(tiny_llama: TinyLlama, tmp_path: Path):
    folder = shutil.copytree(tiny_llama.path, tmp_path / "damaged")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    async with running(config_for("unlucky", folder)) as [unlucky]:
        assert unlucky.status.state == "lost"
        assert str(weights) in (unlucky.error or "")
        assert unlucky.program().status() != psutil.STATUS_ZOMBIE
        order = ConnectOrder(MODEL, next_epoch(), 0, 1, previous=None, tail=None, next_name="whole")
        with pytest.raises(NotReady, match=r"model\.safetensors"):
            await unlucky.process.peer().connect(order, timeout_s=CONNECT_TIMEOUT_S)
        with pytest.raises(NotReady):
            await answer(unlucky, request(order.epoch, PROMPT, 3))
        program = unlucky.program()
    assert not program.is_running()


async def test_a_worker_that_hangs_is_lost_and_ended(tiny_llama: TinyLlama):
    config = replace(config_for("frozen", tiny_llama.path), hang_timeout_s=1.0)
    async with running(config) as [frozen]:
        program = frozen.program()
        program.send_signal(signal.SIGSTOP)
        await until(lambda: frozen.status.state == "lost", "its daemon knows")
        assert frozen.error == "the worker on frozen has not answered for 1 s"
        await until(lambda: not program.is_running(), "the program is gone")


@pytest.mark.parametrize(
    ("program", "error"),
    [
        ("/nowhere/python", "no worker can be started on attic: .*No such file"),
        (shutil.which("false"), "the worker on attic exited with code 1"),
        (shutil.which("echo"), "the worker on attic said b'-m exo_lite.worker.*' instead of its ports"),
    ],
    ids=["no-program", "ends-at-once", "says-something-else"],
)
async def test_a_worker_that_cannot_start_is_lost_and_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str, error: str
):
    monkeypatch.setattr(sys, "executable", program)
    async with running(config_for("attic", tmp_path)) as [attic]:
        assert (attic.status.state, attic.status.worker_port) == ("lost", None)
        assert re.fullmatch(error + ".*", attic.error or ""), attic.error
