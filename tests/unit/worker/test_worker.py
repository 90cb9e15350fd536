"""A worker's state without its process: what it says, and whom it lets in."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from threading import Event

import pytest

from exo_lite.domain.errors import MalformedMessage, NodeLost, NotReady, StaleEpoch, StepHangs
from exo_lite.domain.ids import Epoch, ModelId, RequestId
from exo_lite.domain.load_options import LoadOptions
from exo_lite.domain.pipeline import ConnectOrder
from exo_lite.domain.request import AnswerRequest, GenerateRequest, Sampling
from exo_lite.domain.shard import Shard
from exo_lite.domain.step import StepMessage
from exo_lite.domain.worker import MAX_STEP_S, WorkerConfig
from exo_lite.engine.table import TORCH_C
from exo_lite.pipeline.stage import StageOutput
from exo_lite.worker.awake_cores import AwakeCores
from exo_lite.worker.worker import Worker
from tests.loopback import PEERS
from tests.unit.store.tiny_models import SPEC, random_tensors, write_hf_folder
from tests.waiting import until

MODEL = ModelId("tiny")


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_hf_folder(tmp_path_factory.mktemp("models") / "tiny", SPEC, random_tensors(SPEC))


def config(model_dir: Path) -> WorkerConfig:
    return WorkerConfig(
        node_name="attic",
        host="127.0.0.1",
        model_dir=str(model_dir),
        shard=Shard(MODEL, 0, SPEC.n_layers - 1, SPEC.n_layers),
        options=LoadOptions("float32", context_length=16, num_slots=2),
        hidden_size=SPEC.hidden_size,
        weight_bytes=1,
        kv_cache_bytes=2,
        working_bytes=3,
        device="cpu",
        threads=1,
    )


@asynccontextmanager
async def loaded(settings: WorkerConfig) -> AsyncIterator[Worker]:
    """A worker that has loaded, or has failed to."""
    worker = Worker(settings, TORCH_C, peers=PEERS, clock=lambda: 0.0)
    running = asyncio.create_task(worker.run())
    try:
        await until(lambda: worker.report().state != "loading", "loaded")
        yield worker
    finally:
        running.cancel()
        await asyncio.wait({running})


def order(epoch: int) -> ConnectOrder:
    return ConnectOrder(MODEL, Epoch(epoch), 0, 1, previous=None, tail=None, next_name="attic")


async def tokens_of(worker: Worker, epoch: int, num_tokens: int = 3) -> list[int]:
    asked = AnswerRequest((1, 2, 3), num_tokens, Sampling(temperature=0.0))
    request = GenerateRequest(RequestId("r"), MODEL, Epoch(epoch), 0, asked)
    async with aclosing(worker.generate(request)) as tokens:
        return [token.token_id async for token in tokens]


async def test_of_orders_with_one_epoch_that_come_at_once_one_is_taken(model_dir: Path):
    async with loaded(config(model_dir)) as worker:
        for epoch in (1, 2):
            outcomes = await asyncio.gather(
                *(worker.on_connect(order(epoch)) for _ in range(3)), return_exceptions=True
            )
            assert [type(outcome) for outcome in outcomes] == [type(None), StaleEpoch, StaleEpoch]
            assert len(await tokens_of(worker, epoch)) == 3


async def test_the_newest_of_orders_that_come_at_once_wins(model_dir: Path):
    async with loaded(config(model_dir)) as worker:
        await asyncio.gather(worker.on_connect(order(1)), worker.on_connect(order(2)))
        assert worker.report().joined_epoch == 2
        assert len(await tokens_of(worker, 2)) == 3


async def test_without_a_pipeline_nothing_is_taken(model_dir: Path):
    async with loaded(config(model_dir)) as worker:
        assert (worker.report().joined_epoch, worker.report().driver) == (0, None)
        with pytest.raises(NotReady, match="is in no pipeline yet"):
            await tokens_of(worker, 1)
        with pytest.raises(NotReady, match="is in no pipeline yet"):
            worker.outputs_of(Epoch(1))


async def test_what_a_whole_pipeline_computes_goes_to_nobody(model_dir: Path):
    async with loaded(config(model_dir)) as worker:
        await worker.on_connect(order(1))
        with pytest.raises(MalformedMessage, match="stage 0 of 1 does not produce hidden states"):
            worker.outputs_of(Epoch(1)).steps()
        await until(lambda: _is_taken(worker), "the driver takes its results")
        assert len(await tokens_of(worker, 1)) == 3


@pytest.mark.parametrize("cores_may_sleep", [False, True])
async def test_cores_stay_awake_for_steps_and_for_no_longer(
    model_dir: Path, tmp_path: Path, monkeypatch, cores_may_sleep
):
    latency_file = tmp_path / "latency"
    latency_file.touch()
    cores = AwakeCores(latency_file)
    monkeypatch.setattr("exo_lite.worker.worker.AwakeCores", lambda: cores)
    monkeypatch.setattr("exo_lite.worker.worker.PROVE_EVERY_S", 0.05)
    async with loaded(replace(config(model_dir), cores_may_sleep=cores_may_sleep)) as worker:
        await worker.on_connect(order(1))
        await tokens_of(worker, 1)
        await until(lambda: worker.report().compute_ms is not None, "all is done for the first step")
        assert (latency_file.stat().st_size > 0) != cores_may_sleep
        await until(lambda: not cores.is_held, "no step for a while, but for those that prove hops")


def _is_taken(worker: Worker) -> bool:
    try:
        worker.outputs_of(Epoch(1)).results()
    except MalformedMessage as error:
        return "has a reader already" in str(error)
    return False


async def test_what_it_cannot_load_is_its_status_and_its_answer(tmp_path: Path):
    async with loaded(config(tmp_path)) as worker:
        report = worker.report()
        assert report.state == "lost"
        assert report.failure is not None
        assert "config.json" in report.failure.text
        with pytest.raises(NotReady, match=r"cannot be loaded: .*config\.json"):
            await worker.on_connect(order(1))


async def test_before_it_has_loaded_it_says_how_far_it_is(model_dir: Path):
    worker = Worker(config(model_dir), TORCH_C, peers=PEERS, clock=lambda: 0.0)
    assert (worker.report().state, worker.report().progress) == ("loading", 0.0)
    with pytest.raises(NotReady, match=r"tiny\[0\.\.\d\] on attic is 0% loaded"):
        await worker.on_connect(order(1))


async def test_a_worker_whose_step_does_not_end_gives_up_and_says_why(model_dir: Path, monkeypatch):
    monkeypatch.setattr("exo_lite.worker.worker.PROVE_EVERY_S", 0.02)
    now_s = 0.0
    worker = Worker(config(model_dir), TORCH_C, peers=PEERS, clock=lambda: now_s)
    running = asyncio.create_task(worker.run())
    await until(lambda: worker.report().state == "ready", "loaded")
    await worker.on_connect(order(1))
    computing, go_on = Event(), Event()

    def hang(message: StepMessage) -> StageOutput:
        computing.set()
        go_on.wait()
        return StageOutput()

    session = worker.outputs_of(Epoch(1))
    monkeypatch.setattr(session, "_compute", hang)
    answer = asyncio.ensure_future(tokens_of(worker, 1))
    await until(computing.is_set, "a step is computed")
    now_s = MAX_STEP_S
    await asyncio.sleep(0.1)
    assert not running.done()
    now_s += 1
    with pytest.raises(StepHangs, match="stage 0 on attic has computed one step for 301 s"):
        await running
    go_on.set()
    with pytest.raises(NodeLost, match="the worker on attic ends"):
        await answer
