"""Errors cross a real connection as what they are, and a broken one names who was lost."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

import pytest

from exo_lite.domain.errors import (
    ConnectionRefused,
    ExoLiteError,
    InvalidRequest,
    MalformedMessage,
    ModelDoesNotFit,
    NodeLost,
    QueueFull,
    StaleEpoch,
)
from exo_lite.domain.ids import Epoch, ModelId, RequestId
from exo_lite.domain.pipeline import Endpoint
from exo_lite.domain.request import AnswerRequest, GenerateRequest, Sampling, Token
from exo_lite.transport import stage_server
from exo_lite.transport.worker_client import WorkerClient
from exo_lite.transport.worker_server import serve_worker
from tests.integration.scripted_workers import (
    DEADLINE_S,
    EPOCH,
    IMPATIENT,
    ORDER,
    SILENCE_S,
    ScriptedStage,
    ScriptedWorker,
    Wire,
    client_of,
    served,
    stage_served,
    steps_of,
)
from tests.loopback import PEERS
from tests.stages import reading
from tests.waiting import until

REQUEST = GenerateRequest(RequestId("r"), ModelId("m"), Epoch(1), 0, AnswerRequest((1, 2), 4, Sampling()))
LONG = "a sentence about one of many nodes; " * 100


def every_error(cls: type[ExoLiteError] = ExoLiteError) -> Iterator[type[ExoLiteError]]:
    yield cls
    for subclass in cls.__subclasses__():
        yield from every_error(subclass)


async def test_when_to_come_again_travels_with_a_refusal():
    busy = QueueFull("4 requests run and 64 wait")
    busy.retry_after_s = 17
    async with served(ScriptedWorker(busy)) as address, client_of(address) as client:
        with pytest.raises(QueueFull) as refused:
            _ = [token async for token in client.generate(REQUEST)]
    assert refused.value.retry_after_s == 17


async def test_every_error_arrives_as_itself_from_calls_answers_and_stages():
    worker, stage = ScriptedWorker(), ScriptedStage()
    async with served(worker) as address, client_of(address) as client, stage_served(stage) as stage_address:
        for cls in every_error():
            worker.error = stage.error = cls(f"{cls.__name__}: 3.5 GiB are 100% of “memory”\nask node-b")
            with pytest.raises(ExoLiteError) as of_call:
                await client.connect(ORDER, timeout_s=DEADLINE_S)
            with pytest.raises(ExoLiteError) as of_stream:
                await _collect(client)
            async with reading(steps_of(stage_address)) as steps:
                assert (await steps.next()).step.step_id == 0
                with pytest.raises(ExoLiteError) as of_stage:
                    await steps.next()
            for raised in (of_call, of_stream, of_stage):
                assert (type(raised.value), str(raised.value)) == (cls, str(worker.error))


async def _collect(client: WorkerClient) -> list[int]:
    return [token.token_id async for token in client.generate(REQUEST)]


def test_the_tree_has_a_code_for_each_class():
    classes = list(every_error())
    assert len({cls.code for cls in classes}) == len(classes)


async def test_the_parameter_at_fault_arrives_with_its_error():
    worker = ScriptedWorker(InvalidRequest("context 9 is too long", param="context"))
    async with served(worker) as address, client_of(address) as client:
        with pytest.raises(InvalidRequest) as raised:
            await client.connect(ORDER, timeout_s=DEADLINE_S)
        assert raised.value.param == "context"
        worker.error = InvalidRequest("nothing in particular")
        with pytest.raises(InvalidRequest) as raised:
            await client.connect(ORDER, timeout_s=DEADLINE_S)
        assert raised.value.param is None


@pytest.mark.parametrize("message", [LONG, "%" * 6000, "内存不足" * 2000, "caf\udce9.safetensors"])
async def test_messages_of_any_length_and_script_keep_their_class(message: str):
    worker = ScriptedWorker(ModelDoesNotFit(message))
    async with served(worker) as address, client_of(address) as client:
        with pytest.raises(ModelDoesNotFit) as raised:
            await client.connect(ORDER, timeout_s=DEADLINE_S)
    arrived = str(raised.value).removesuffix(" …")
    assert arrived == message.encode(errors="replace").decode()[: len(arrived)]
    assert len(arrived) >= min(len(message), 600)


async def test_an_address_where_nothing_listens_refuses():
    async with served(ScriptedWorker()) as address:
        pass
    async with client_of(address) as client:
        for _ in range(2):
            with pytest.raises(ConnectionRefused, match=r"attic \(127\.0\.0\.1:\d+\) refuses connections"):
                await client.report(timeout_s=DEADLINE_S)


async def test_a_peer_that_dies_in_mid_call_is_lost_by_name():
    async with served(ScriptedWorker()) as address, Wire(address) as wire, client_of(wire.address) as client:
        connecting = asyncio.ensure_future(client.connect(ORDER, timeout_s=DEADLINE_S))
        tokens = client.generate(REQUEST)
        assert await anext(tokens) == Token(0, 7)
        wire.tear()
        for waiting in (anext(tokens), connecting):
            with pytest.raises(NodeLost, match=r"attic \(127\.0\.0\.1:\d+\) closed the connection"):
                await waiting


async def test_a_stage_that_dies_is_seen_by_whoever_waits_for_its_steps():
    async with (
        stage_served(ScriptedStage()) as address,
        Wire(address) as wire,
        reading(steps_of(wire.address)) as steps,
        asyncio.timeout(DEADLINE_S),
    ):
        await steps.next()
        wire.tear()
        with pytest.raises(NodeLost, match=r"attic \(127\.0\.0\.1:\d+\) closed the connection"):
            await steps.next()


async def test_a_connection_that_goes_silent_is_noticed_in_seconds_though_nobody_reads():
    async with stage_served(ScriptedStage()) as address, Wire(address) as wire, asyncio.timeout(3 * DEADLINE_S):
        noticed = asyncio.ensure_future(IMPATIENT.until_silent(Endpoint("attic", wire.address)))
        await until(lambda: wire.num_connections > 0, "it watches")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(2 * SILENCE_S):
                await asyncio.shield(noticed)
        wire.silence()
        silent_at_s = time.monotonic()
        loss = await noticed
        assert type(loss) is NodeLost
        assert str(loss) == f"attic ({wire.address}) has not answered for 2 s: it hangs, or its network is gone"
        assert time.monotonic() - silent_at_s < 2 * SILENCE_S


async def test_a_process_that_is_gone_is_noticed_though_nobody_reads():
    async with stage_served(ScriptedStage()) as address, Wire(address) as wire, asyncio.timeout(3 * DEADLINE_S):
        noticed = asyncio.ensure_future(IMPATIENT.until_silent(Endpoint("attic", wire.address)))
        await until(lambda: wire.num_connections > 0, "it watches")
        wire.tear()
        assert isinstance(await noticed, ConnectionRefused)


async def test_a_connection_that_breaks_and_comes_back_is_no_loss():
    async with stage_served(ScriptedStage()) as address, Wire(address) as wire, asyncio.timeout(3 * DEADLINE_S):
        noticed = asyncio.ensure_future(IMPATIENT.until_silent(Endpoint("attic", wire.address)))
        for num_connections in (1, 2, 3):
            await until(lambda num=num_connections: wire.num_connections == num, "it watches")  # type: ignore[misc]
            wire.tear_connections()
        await until(lambda: wire.num_connections == 4, "it watches")
        assert not noticed.done()
        noticed.cancel()


async def test_a_call_to_a_machine_that_is_gone_is_given_up_once_nothing_more_is_computed(monkeypatch):
    """Else its thread would wait for as long as the kernel sends again what nobody acknowledges."""
    monkeypatch.setattr(stage_server, "LAST_WORDS_S", 0.2)
    stage = ScriptedStage()
    async with (
        stage_served(stage) as address,
        Wire(address) as wire,
        reading(steps_of(wire.address)) as steps,
        asyncio.timeout(2 * DEADLINE_S),
    ):
        await steps.next()
        wire.silence()
        for callback in stage.end_callbacks:
            callback()
        await until(lambda: not stage.num_open, "the stage gives the call up")


async def test_a_stream_from_where_nothing_listens_is_refused():
    async with stage_served(ScriptedStage()) as address:
        pass
    async with reading(steps_of(address)) as steps, asyncio.timeout(DEADLINE_S):
        with pytest.raises(ConnectionRefused, match=r"attic \(127\.0\.0\.1:\d+\) refuses connections"):
            await steps.next()


async def test_a_closed_stream_says_nothing_and_the_stage_knows():
    stage = ScriptedStage()
    async with stage_served(stage) as address, reading(steps_of(address)) as steps, asyncio.timeout(DEADLINE_S):
        await steps.next()
        assert stage.num_open == 1
        steps.stream.close()
        assert await steps.items.get() is None
        await until(lambda: not stage.num_open, "the stage sees its end")


async def test_a_stream_that_is_closed_before_it_is_read_opens_nothing():
    stage = ScriptedStage()
    async with stage_served(stage) as address:
        stream = steps_of(address)
        stream.close()
        assert list(stream) == []
    assert stage.num_open == 0


async def test_what_was_sent_before_an_error_arrives_before_it():
    """Often enough for the end to come in the midst of a write."""
    stage = ScriptedStage(StaleEpoch("a step of epoch 1 came to epoch 2"), num_steps=40)
    async with stage_served(stage) as address:
        for _ in range(50):
            async with reading(steps_of(address)) as steps, asyncio.timeout(DEADLINE_S):
                assert [(await steps.next()).step.step_id for _ in range(40)] == list(range(40))
                with pytest.raises(StaleEpoch, match="came to epoch 2"):
                    await steps.next()
        await until(lambda: not stage.num_open, "the stage has heard of every end")


async def test_a_stream_that_is_refused_breaks_nothing_off():
    stage = ScriptedStage()
    async with stage_served(stage) as address, reading(steps_of(address)) as steps, asyncio.timeout(DEADLINE_S):
        await steps.next()
        async with reading(steps_of(address, Epoch(2))) as stale:
            with pytest.raises(StaleEpoch, match="no stage of epoch 2"):
                await stale.next()
        async with reading(PEERS.results(Endpoint("attic", address), EPOCH)) as results:
            with pytest.raises(MalformedMessage, match="there are none here"):
                await results.next()
        assert stage.num_open == 1


async def test_a_stage_server_that_stops_looks_lost():
    stage = ScriptedStage()
    server = PEERS.stage_server(stage)
    port = PEERS.bind(server, "127.0.0.1", 0)
    server.start()
    async with reading(steps_of(f"127.0.0.1:{port}")) as steps, asyncio.timeout(DEADLINE_S):
        await steps.next()
        await asyncio.to_thread(server.stop(grace=None).wait)
        with pytest.raises(NodeLost, match="attic"):
            await steps.next()


async def test_a_server_that_stops_looks_lost_and_not_as_if_this_side_had_cancelled():
    server, worker = PEERS.node_server(), ScriptedWorker()
    serve_worker(server, worker)
    port = PEERS.bind(server, "127.0.0.1", 0)
    await server.start()
    async with client_of(f"127.0.0.1:{port}") as client:
        tokens = client.generate(REQUEST)
        await anext(tokens)
        waiting = [asyncio.ensure_future(one) for one in (anext(tokens), client.connect(ORDER, timeout_s=DEADLINE_S))]
        await until(lambda: worker.num_connects > 0, "the call has arrived")
        await server.stop(grace=None)
        for one in waiting:
            with pytest.raises(NodeLost, match="attic"):
                await one


async def test_a_client_that_is_closed_in_mid_answer_raises_and_a_cancelled_task_is_cancelled():
    async with served(ScriptedWorker()) as address:
        async with client_of(address) as client:
            tokens = client.generate(REQUEST)
            await anext(tokens)
            waiting = asyncio.ensure_future(anext(tokens))
            await asyncio.sleep(0)
        with pytest.raises(NodeLost, match="attic"):
            await waiting
        async with client_of(address) as client:
            waiting = asyncio.ensure_future(anext(client.generate(REQUEST)))
            await asyncio.sleep(0)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting


async def test_a_call_that_takes_too_long_says_so():
    async with served(ScriptedWorker()) as address, client_of(address) as client:
        with pytest.raises(NodeLost, match=r"attic.*did not answer in time"):
            await client.connect(ORDER, timeout_s=0.05)
