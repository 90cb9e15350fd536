"""A long-lived stream to another worker, which ends with what the other side has to say.

gRPC's blocking client and not its asyncio one: a step goes out from the thread that computed it, with one wake-up
in place of three on the way.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
from queue import SimpleQueue
from threading import Lock
from typing import Any, Generic, TypeVar

from grpc import StatusCode

from exo_lite.domain.errors import ExoLiteError, NodeLost
from exo_lite.domain.pipeline import Hop
from exo_lite.domain.step import StepMessage, StepResult
from exo_lite.transport.channels import open_blocking_channel
from exo_lite.transport.errors import error_from_status
from exo_lite.transport.step_codec import result_to_proto, step_to_proto
from exo_lite.transport.v1 import worker_pb2
from exo_lite.transport.v1.worker_pb2_grpc import WorkerStub

Item = TypeVar("Item")
Message = TypeVar("Message", worker_pb2.StepMessage, worker_pb2.StepResult)
OnEnd = Callable[[ExoLiteError], None]


class OutStream(Generic[Item]):
    """Opens with the first item: a pipeline is joined from its end, so that the way back leads nowhere at first.

    `on_end` hears, on a thread of gRPC's, what ended the stream on the other side, or NodeLost naming the peer: once at
    most, and not after `close`.
    """

    def __init__(
        self,
        hop: Hop,
        start_call: Callable[[WorkerStub, Iterator[Item]], Any],
        on_end: OnEnd,
        *,
        max_message_bytes: int,
    ) -> None:
        self._peer = f"{hop.name} ({hop.address})"
        self._channel = open_blocking_channel(hop.address, max_message_bytes=max_message_bytes)
        self._start_call = start_call
        self._on_end = on_end
        self._items: SimpleQueue[Item | None] = SimpleQueue()
        self._is_open = self._is_closed = False
        self._lock = Lock()

    def send(self, item: Item) -> None:
        """Hand it over without waiting, from any thread. What is sent after the end goes nowhere."""
        with self._lock:
            if self._is_closed:
                return
            self._items.put(item)
            if not self._is_open:
                self._is_open = True
                call = self._start_call(WorkerStub(self._channel), iter(self._items.get, None))
                call.add_done_callback(self._on_done)

    def close(self) -> None:
        with self._lock:
            self._is_closed = True
            self._items.put(None)  # frees the thread that waits for the next item
            self._channel.close()

    def _on_done(self, call: Any) -> None:
        if self._is_closed:
            return
        if call.code() is StatusCode.OK:
            self._on_end(NodeLost(f"{self._peer} closed the stream"))
        else:
            self._on_end(error_from_status(call, peer=self._peer))


def _timed(to_proto: Callable[[Item], Message], item: Item) -> Message:
    """The message, which carries in the last of its timings what it took to build."""
    started_at_s = time.perf_counter()
    message = to_proto(item)
    if message.timings:
        message.timings[-1].serialize_ms = (time.perf_counter() - started_at_s) * 1000
    return message


def open_pipe(hop: Hop, on_end: OnEnd, *, max_message_bytes: int) -> OutStream[StepMessage]:
    """Of steps, to the next stage."""
    return OutStream(
        hop,
        lambda stub, messages: stub.Pipe.future(map(partial(_timed, step_to_proto), messages)),
        on_end,
        max_message_bytes=max_message_bytes,
    )


def open_results(hop: Hop, on_end: OnEnd, *, max_message_bytes: int) -> OutStream[StepResult]:
    """Of results, from the last stage to the head."""
    return OutStream(
        hop,
        lambda stub, results: stub.Results.future(map(partial(_timed, result_to_proto), results)),
        on_end,
        max_message_bytes=max_message_bytes,
    )
