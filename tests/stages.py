"""In place of a stage before another: what it sends is the test's, sound or not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from queue import SimpleQueue
from threading import Event, Thread
from typing import Generic, TypeVar

import grpc

from exo_lite.domain.errors import ExoLiteError
from exo_lite.transport.in_stream import InStream
from tests.loopback import PEERS

Item = TypeVar("Item")
STEPS_METHOD = "/exo_lite.transport.v1.Stage/Steps"


@dataclass
class RawStage(grpc.GenericRpcHandler):
    """Serves one stream of steps, whose messages are bytes."""

    messages: SimpleQueue[bytes | None] = field(default_factory=SimpleQueue)
    address: str = ""
    is_open: Event = field(default_factory=Event)
    is_over: Event = field(default_factory=Event)

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[bytes, bytes] | None:
        if handler_call_details.method != STEPS_METHOD:
            return None
        return grpc.unary_stream_rpc_method_handler(self._steps)

    def _steps(self, request: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
        context.add_callback(self._end)
        self.is_open.set()
        while (message := self.messages.get()) is not None:
            yield message

    def _end(self) -> None:
        self.is_over.set()
        self.messages.put(None)


@asynccontextmanager
async def raw_stage() -> AsyncIterator[RawStage]:
    """Listens until the context ends."""
    stage = RawStage()
    server = grpc.server(ThreadPoolExecutor(1), handlers=[stage], options=[("grpc.max_send_message_length", -1)])
    stage.address = f"127.0.0.1:{PEERS.bind(server, '127.0.0.1', 0)}"
    server.start()
    try:
        yield stage
    finally:
        stage.messages.put(None)
        await asyncio.to_thread(server.stop(grace=None).wait)


class Read(Generic[Item]):
    """A stream that a thread reads into a queue; the last thing in it is what ended the stream."""

    def __init__(self, stream: InStream[Item]) -> None:
        self.items: asyncio.Queue[Item | ExoLiteError | None] = asyncio.Queue()
        self.stream = stream
        self._loop = asyncio.get_running_loop()
        self.thread = Thread(target=self._read, name="reading", daemon=True)
        self.thread.start()

    async def next(self) -> Item:
        """Raises what ended the stream."""
        item = await self.items.get()
        if isinstance(item, ExoLiteError):
            self.items.put_nowait(item)  # for whoever asks again
            raise item
        assert item is not None, "the stream was closed on this side"
        return item

    def _read(self) -> None:
        end: ExoLiteError | None = None
        try:
            for item in self.stream:
                self._loop.call_soon_threadsafe(self.items.put_nowait, item)
        except ExoLiteError as error:
            end = error
        self._loop.call_soon_threadsafe(self.items.put_nowait, end)


@asynccontextmanager
async def reading(stream: InStream[Item]) -> AsyncIterator[Read[Item]]:
    """It is closed, and its thread gone, with the context."""
    read = Read(stream)
    try:
        yield read
    finally:
        stream.close()
        await asyncio.to_thread(read.thread.join)
