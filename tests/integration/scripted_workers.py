"""Workers and stages that say what a test wants, behind real gRPC servers, and a wire between that can be cut."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from threading import Event

from exo_lite.domain.credentials import Credentials
from exo_lite.domain.errors import (
    ExoLiteError,
    MalformedMessage,
    NotReady,
    StaleEpoch,
)
from exo_lite.domain.ids import Epoch, ModelId
from exo_lite.domain.pipeline import ConnectOrder, Endpoint
from exo_lite.domain.request import GenerateRequest, Token
from exo_lite.domain.step import HiddenStates, Step, StepMessage, StepResult
from exo_lite.domain.trace import RequestTrace
from exo_lite.domain.worker_report import WorkerReport
from exo_lite.transport.in_stream import InStream
from exo_lite.transport.peers import GrpcPeers
from exo_lite.transport.worker_client import WorkerClient
from exo_lite.transport.worker_server import serve_worker
from tests.loopback import PEERS

DEADLINE_S = 5.0

SILENCE_S = 2.0

IMPATIENT = GrpcPeers(Credentials(), hang_timeout_s=SILENCE_S)

EPOCH = Epoch(1)

ORDER = ConnectOrder(ModelId("m"), EPOCH, stage=0, num_stages=1, previous=None, tail=None, next_name="attic")


class ScriptedWorker:
    """Gives one token, then raises `error`, or waits for ever without one."""

    def __init__(self, error: ExoLiteError | None = None) -> None:
        self.error = error
        self.num_connects = 0

    def report(self) -> WorkerReport:
        return WorkerReport("ready", 1.0, Epoch(1))

    async def on_connect(self, order: ConnectOrder) -> None:
        self.num_connects += 1
        await self._raise()

    def traces(self) -> tuple[RequestTrace, ...]:
        raise NotReady("nobody looks")

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Token, None]:
        yield Token(0, 7)
        await self._raise()

    async def _raise(self) -> None:
        if self.error is None:
            await asyncio.get_running_loop().create_future()
        else:
            raise self.error


class ScriptedStage:
    """Gives `num_steps` steps, then raises `error`, or waits for whoever takes them to go."""

    def __init__(self, error: ExoLiteError | None = None, num_steps: int = 1) -> None:
        self.error = error
        self.num_steps = num_steps
        self.num_open = 0
        self._end = Event()
        self.end_callbacks: list[Callable[[], None]] = []

    def outputs_of(self, epoch: Epoch) -> ScriptedStage:
        if epoch != EPOCH:
            raise StaleEpoch(f"this is no stage of epoch {epoch}")
        return self

    def steps(self, send: Callable[[StepMessage], None]) -> Iterator[StepMessage]:
        self.num_open += 1
        for step_id in range(self.num_steps):
            yield StepMessage(Step(EPOCH, step_id), HiddenStates("float32", 8, 1024, bytes(32768)))
        if self.error is None:
            self._end.wait(DEADLINE_S)
            raise NotReady("nobody hears this")
        raise self.error

    def results(self) -> Iterator[StepResult]:
        raise MalformedMessage("there are none here")

    def break_off(self) -> None:
        self.num_open -= 1
        self._end.set()

    def when_ended(self, callback: Callable[[], None]) -> None:
        self.end_callbacks.append(callback)


@asynccontextmanager
async def stage_served(stage: ScriptedStage) -> AsyncIterator[str]:
    """Its address."""
    server = PEERS.stage_server(stage)
    port = PEERS.bind(server, "127.0.0.1", 0)
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await asyncio.to_thread(server.stop(grace=None).wait)


def steps_of(address: str, epoch: Epoch = EPOCH) -> InStream[StepMessage]:
    return PEERS.steps(Endpoint("attic", address), epoch)


@asynccontextmanager
async def served(worker: ScriptedWorker) -> AsyncIterator[str]:
    """Its address."""
    server = PEERS.node_server()
    serve_worker(server, worker)
    port = PEERS.bind(server, "127.0.0.1", 0)
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(grace=None)


@asynccontextmanager
async def client_of(address: str) -> AsyncIterator[WorkerClient]:
    client = PEERS.worker(Endpoint("attic", address))
    try:
        async with asyncio.timeout(DEADLINE_S):
            yield client
    finally:
        await client.close()


class Wire:
    """A connection to an address that can be torn, as by a reset, or go silent, as by a power failure."""

    def __init__(self, address: str) -> None:
        self._target_host, _, self._target_port = address.rpartition(":")
        self._writers: list[asyncio.StreamWriter] = []
        self._is_silent = False
        self.num_connections = 0

    async def __aenter__(self) -> Wire:
        self._server = await asyncio.start_server(self._on_connection, "127.0.0.1", 0)
        self.address = "{}:{}".format(*self._server.sockets[0].getsockname())
        return self

    async def __aexit__(self, *_: object) -> None:
        self.tear()
        await self._server.wait_closed()

    def tear(self) -> None:
        self._server.close()
        self.tear_connections()

    def tear_connections(self) -> None:
        for writer in self._writers:
            writer.transport.abort()

    def silence(self) -> None:
        """Nothing arrives any more, on either side, and nobody is told."""
        self._is_silent = True

    async def _on_connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        target_reader, target_writer = await asyncio.open_connection(self._target_host, self._target_port)
        self._writers += [writer, target_writer]
        self.num_connections += 1
        copies = (self._copy(reader, target_writer), self._copy(target_reader, writer))
        await asyncio.gather(*copies, return_exceptions=True)
        target_writer.close()
        writer.close()

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            if not self._is_silent:
                writer.write(data)
