"""A long-lived stream of what another worker computes, read by the thread that goes on with it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from threading import Event, Lock
from typing import Any, Generic, TypeVar

import grpc

from exo_lite.domain.errors import ExoLiteError, NodeLost
from exo_lite.domain.ids import Epoch
from exo_lite.domain.pipeline import Endpoint
from exo_lite.domain.step import StepMessage, StepResult
from exo_lite.transport.errors import error_from_status
from exo_lite.transport.step_codec import result_from_proto, step_from_proto
from exo_lite.transport.v1 import worker_pb2
from exo_lite.transport.v1.worker_pb2_grpc import StageStub

Item = TypeVar("Item")


class InStream(Generic[Item]):
    """Opens when it is iterated, once. `close` may come from any thread, and ends the iteration."""

    def __init__(
        self,
        endpoint: Endpoint,
        channel: grpc.Channel,
        start_call: Callable[[StageStub], Any],
        from_proto: Callable[[Any], Item],
    ) -> None:
        """`channel` leads to `endpoint`, and is closed with the stream."""
        self._peer = f"{endpoint.name} ({endpoint.address})"
        self._channel = channel
        self._start_call = start_call
        self._from_proto = from_proto
        self._closed = Event()
        self._lock = Lock()

    def __iter__(self) -> Iterator[Item]:
        """Waits for each. Raises what the other side raised, NodeLost naming it, or what damaged messages raise."""
        with self._lock:
            if self._closed.is_set():
                return
            call = self._start_call(StageStub(self._channel))
        try:
            yield from map(self._from_proto, call)
            ended: ExoLiteError = NodeLost(f"{self._peer} closed the stream")
        except grpc.RpcError:
            if self._closed.is_set():
                return
            ended = error_from_status(call, peer=self._peer)
        finally:
            self.close()
            _read_to_end(call)
        raise ended

    def close(self) -> None:
        with self._lock:
            self._closed.set()
            self._channel.close()


def _read_to_end(call: Any) -> None:
    """Read a cancelled call to its end: gRPC keeps its connection until the reader has seen it."""
    with suppress(grpc.RpcError):
        for _ in call:
            pass


def steps_from(endpoint: Endpoint, epoch: Epoch, channel: grpc.Channel) -> InStream[StepMessage]:
    """Open the stream of steps from the stage before."""
    request = worker_pb2.StreamRequest(epoch=epoch)
    return InStream(endpoint, channel, lambda stub: stub.Steps(request), step_from_proto)


def results_from(endpoint: Endpoint, epoch: Epoch, channel: grpc.Channel) -> InStream[StepResult]:
    """Open the stream of results from the last stage."""
    request = worker_pb2.StreamRequest(epoch=epoch)
    return InStream(endpoint, channel, lambda stub: stub.Results(request), result_from_proto)
