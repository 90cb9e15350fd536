"""Errors cross a real connection as what they are, and a broken one names who was lost."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest

from exo_lite.domain.errors import (
    ConnectionRefused,
    ExoLiteError,
    InvalidRequest,
    ModelDoesNotFit,
    NodeLost,
    NotReady,
    QueueFull,
    StaleEpoch,
)
from exo_lite.domain.ids import Epoch, ModelId, RequestId
from exo_lite.domain.node import ShardStatus
from exo_lite.domain.pipeline import ConnectOrder, Hop
from exo_lite.domain.request import GenerateRequest, Sampling, Token
from exo_lite.domain.shard import Shard
from exo_lite.domain.step import HiddenStates, Step, StepMessage, StepResult
from exo_lite.domain.trace import RequestTrace
from exo_lite.transport.channels import bind, create_server
from exo_lite.transport.worker_client import WorkerClient
from exo_lite.transport.worker_server import serve_worker
from tests.pipes import Pipe, pipe_to
from tests.waiting import until

DEADLINE_S = 5.0
ORDER = ConnectOrder(ModelId("m"), Epoch(1), stage=0, num_stages=1, next=None, head=None)
REQUEST = GenerateRequest(RequestId("r"), ModelId("m"), Epoch(1), 0, (1, 2), 4, Sampling())
LONG = "a sentence about one of many nodes; " * 100


class ScriptedWorker:
    """Gives one token, then raises `error`, or waits for ever without one."""

    def __init__(self, error: ExoLiteError | None = None) -> None:
        self.error = error
        self.num_pipes = self.num_steps = 0

    def status(self) -> ShardStatus:
        return ShardStatus(Shard(ModelId("m"), 0, 0, 1), Epoch(1), Epoch(1), "ready", 1.0, 1, 1, 1)

    async def on_connect(self, order: ConnectOrder) -> None:
        await self._raise()

    def traces(self) -> tuple[RequestTrace, ...]:
        raise NotReady("nobody looks")

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Token, None]:
        yield Token(0, 7)
        await self._raise()

    async def on_steps(self, messages: AsyncIterator[StepMessage]) -> None:
        self.num_pipes += 1
        try:
            await anext(messages)
            self.num_steps += 1
            await self._raise()
        finally:
            self.num_pipes -= 1

    async def on_results(self, results: AsyncIterator[StepResult]) -> None:
        await self._raise()

    async def _raise(self) -> None:
        if self.error is None:
            await asyncio.get_running_loop().create_future()
        else:
            raise self.error


@asynccontextmanager
async def served(worker: ScriptedWorker) -> AsyncIterator[str]:
    """Its address."""
    server = create_server()
    serve_worker(server, worker)
    port = bind(server, "127.0.0.1", 0)
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(grace=None)


@asynccontextmanager
async def client_of(address: str) -> AsyncIterator[WorkerClient]:
    client = WorkerClient(Hop("attic", address))
    try:
        async with asyncio.timeout(DEADLINE_S):
            yield client
    finally:
        await client.close()


class Wire:
    """A connection to an address that can be torn, as by a power failure."""

    def __init__(self, address: str) -> None:
        self._target_host, _, self._target_port = address.rpartition(":")
        self._writers: list[asyncio.StreamWriter] = []

    async def __aenter__(self) -> Wire:
        self._server = await asyncio.start_server(self._on_connection, "127.0.0.1", 0)
        self.address = "{}:{}".format(*self._server.sockets[0].getsockname())
        return self

    async def __aexit__(self, *_: object) -> None:
        self.tear()
        await self._server.wait_closed()

    def tear(self) -> None:
        self._server.close()
        for writer in self._writers:
            writer.transport.abort()

    async def _on_connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        target_reader, target_writer = await asyncio.open_connection(self._target_host, self._target_port)
        self._writers += [writer, target_writer]
        await asyncio.gather(_copy(reader, target_writer), _copy(target_reader, writer), return_exceptions=True)
        target_writer.close()
        writer.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)


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


async def test_every_error_arrives_as_itself_from_calls_streams_and_pipes():
    worker = ScriptedWorker()
    async with served(worker) as address, client_of(address) as client:
        for cls in every_error():
            worker.error = cls(f"{cls.__name__}: 3.5 GiB are 100% of “memory”\nask node-b")
            with pytest.raises(ExoLiteError) as of_call:
                await client.connect(ORDER, timeout_s=DEADLINE_S)
            with pytest.raises(ExoLiteError) as of_stream:
                await _collect(client)
            with pytest.raises(ExoLiteError) as of_pipe:
                await _send_a_step(client.hop)
            for raised in (of_call, of_stream, of_pipe):
                assert (type(raised.value), str(raised.value)) == (cls, str(worker.error))


async def _collect(client: WorkerClient) -> list[int]:
    return [token.token_id async for token in client.generate(REQUEST)]


async def _send_a_step(hop: Hop) -> None:
    with pipe_to(hop) as pipe:
        pipe.send(StepMessage(Step(Epoch(1), 0)))
        await pipe.wait_ended()


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
                await client.status(timeout_s=DEADLINE_S)


async def test_a_peer_that_dies_in_mid_call_is_lost_by_name():
    async with served(ScriptedWorker()) as address, Wire(address) as wire, client_of(wire.address) as client:
        connecting = asyncio.ensure_future(client.connect(ORDER, timeout_s=DEADLINE_S))
        tokens = client.generate(REQUEST)
        assert await anext(tokens) == Token(0, 7)
        wire.tear()
        for waiting in (anext(tokens), connecting):
            with pytest.raises(NodeLost, match=r"attic \(127\.0\.0\.1:\d+\) did not answer"):
                await waiting


async def test_a_peer_that_dies_is_seen_by_an_open_pipe():
    worker = ScriptedWorker()
    async with served(worker) as address, Wire(address) as wire:
        with pipe_to(Hop("attic", wire.address)) as pipe:
            pipe.send(StepMessage(Step(Epoch(1), 0)))
            await until(lambda: worker.num_steps, "the step has arrived")
            wire.tear()
            async with asyncio.timeout(DEADLINE_S):
                with pytest.raises(NodeLost, match=r"attic \(127\.0\.0\.1:\d+\) did not answer"):
                    await pipe.wait_ended()
            pipe.send(StepMessage(Step(Epoch(1), 1)))  # goes nowhere


async def test_a_pipe_to_where_nothing_listens_is_refused():
    async with served(ScriptedWorker()) as address:
        pass
    with pipe_to(Hop("attic", address)) as pipe:
        pipe.send(StepMessage(Step(Epoch(1), 0)))
        async with asyncio.timeout(DEADLINE_S):
            with pytest.raises(ConnectionRefused, match=r"attic \(127\.0\.0\.1:\d+\) refuses connections"):
                await pipe.wait_ended()


async def test_a_closed_pipe_leaves_neither_thread_nor_stream_and_says_nothing():
    worker = ScriptedWorker()
    async with served(worker) as address:
        threads = set(threading.enumerate())
        with pipe_to(Hop("attic", address)) as pipe:
            pipe.send(StepMessage(Step(Epoch(1), 0)))
            await until(lambda: worker.num_pipes, "the pipe is open")
            assert set(threading.enumerate()) - threads
        pipe.send(StepMessage(Step(Epoch(1), 1)))
        await until(lambda: not worker.num_pipes, "the other side sees its end")
        await until(lambda: not set(threading.enumerate()) - threads, "its threads are gone")
        assert not pipe.ended.done()


async def test_a_pipe_that_was_never_used_opens_nothing():
    worker = ScriptedWorker()
    async with served(worker) as address:
        with pipe_to(Hop("attic", address)) as pipe:
            pass
        pipe.send(StepMessage(Step(Epoch(1), 0)))
        assert not pipe.ended.done()
        assert worker.num_steps == 0


async def test_a_stream_that_ends_while_it_is_written_to_says_why():
    """Often enough for the end to come in the midst of a write."""
    worker = ScriptedWorker(StaleEpoch("a step of epoch 1 came to epoch 2"))
    async with served(worker) as address:
        for _ in range(500):
            with pipe_to(Hop("attic", address)) as pipe:
                sending = asyncio.ensure_future(_send_until_it_ends(pipe))
                with pytest.raises(StaleEpoch, match="came to epoch 2"):
                    await pipe.wait_ended()
                await sending


async def _send_until_it_ends(pipe: Pipe) -> None:
    tensor = HiddenStates("float32", 8, 1024, bytes(32768))
    while not pipe.ended.done():
        pipe.send(StepMessage(Step(Epoch(1), 0), tensor))
        await asyncio.sleep(0)


async def test_a_server_that_stops_looks_lost_and_not_as_if_this_side_had_cancelled():
    server, worker = create_server(), ScriptedWorker()
    serve_worker(server, worker)
    port = bind(server, "127.0.0.1", 0)
    await server.start()
    async with client_of(f"127.0.0.1:{port}") as client:
        tokens = client.generate(REQUEST)
        await anext(tokens)
        waiting = [
            asyncio.ensure_future(one)
            for one in (_send_a_step(client.hop), anext(tokens), client.connect(ORDER, timeout_s=DEADLINE_S))
        ]
        await until(lambda: worker.num_steps, "the step has arrived")
        await asyncio.sleep(0)
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
        with pytest.raises(NodeLost, match=r"attic.*DEADLINE_EXCEEDED"):
            await client.connect(ORDER, timeout_s=0.05)
