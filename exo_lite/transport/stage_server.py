"""The gRPC face of what a stage computes: the stage after it opens a stream, and gets what comes out.

gRPC's blocking server and not its asyncio one: the thread that sends is the one that computes, and no step changes
hands on its way from one stage to the next.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Timer
from typing import Protocol, TypeVar

import grpc

from exo_lite.domain.ids import Epoch
from exo_lite.domain.step import StepMessage, StepResult
from exo_lite.transport.channels import create_blocking_server
from exo_lite.transport.errors import errors_as_blocking_status
from exo_lite.transport.step_codec import result_to_proto, step_to_proto
from exo_lite.transport.v1 import worker_pb2
from exo_lite.transport.v1.worker_pb2_grpc import StageServicer, add_StageServicer_to_server

Item = TypeVar("Item")
Handler = TypeVar("Handler", bound=Callable[..., None])
Send = Callable[[Item], None]
Message = TypeVar("Message", worker_pb2.StepMessage, worker_pb2.StepResult)

MAX_STREAMS = 8
"""One is in use; those of epochs before may take a moment to end."""
LAST_WORDS_S = 5.0
"""How long the end of a stream may take to reach the other side, before the call is given up with its thread."""


def _sends(handler: Handler) -> Handler:
    """Have gRPC give a handler the function that sends a message, in place of taking messages from an iterator.

    Then any thread can send, one at a time. The health service that comes with gRPC is served in this way too.
    """
    handler.experimental_non_blocking = True  # type: ignore[attr-defined]
    return handler


class StageOutputs(Protocol):
    """A stage's outputs in one epoch, computed on the thread that iterates, until an ExoLiteError is raised.

    Whoever asks for it in the wrong place, or second, gets that error from the call itself.
    """

    def steps(self, send: Send[StepMessage]) -> Iterator[StepMessage]:
        """Another thread of the stage's may send too, between two that are taken here."""
        ...

    def results(self) -> Iterator[StepResult]: ...

    def break_off(self) -> None:
        """Nobody takes them any more. Comes after every stream, on any thread."""

    def when_ended(self, callback: Callable[[], None]) -> None:
        """Call back once nothing more is computed, from any thread; at once if that is so already."""


class StageHandler(Protocol):
    """The worker whose outputs are served. Raised ExoLiteErrors reach the caller."""

    def outputs_of(self, epoch: Epoch) -> StageOutputs: ...


def create_stage_server(handler: StageHandler, *, max_message_bytes: int) -> grpc.Server:
    threads = ThreadPoolExecutor(MAX_STREAMS, thread_name_prefix="stage")
    server = create_blocking_server(threads, max_message_bytes=max_message_bytes, max_calls=MAX_STREAMS)
    add_StageServicer_to_server(_StageServicer(handler), server)
    return server


class _StageServicer(StageServicer):
    def __init__(self, handler: StageHandler) -> None:
        self._handler = handler

    @_sends
    def Steps(  # type: ignore[override]  # the stubs do not know handlers that send
        self, request: worker_pb2.StreamRequest, context: grpc.ServicerContext, send: Send[worker_pb2.StepMessage]
    ) -> None:
        def send_step(step: StepMessage) -> None:
            send(_timed(step_to_proto, step))

        self._serve(request, context, lambda outputs: outputs.steps(send_step), send_step)

    @_sends
    def Results(  # type: ignore[override]  # the stubs do not know handlers that send
        self, request: worker_pb2.StreamRequest, context: grpc.ServicerContext, send: Send[worker_pb2.StepResult]
    ) -> None:
        def send_result(result: StepResult) -> None:
            send(_timed(result_to_proto, result))

        self._serve(request, context, lambda outputs: outputs.results(), send_result)

    def _serve(
        self,
        request: worker_pb2.StreamRequest,
        context: grpc.ServicerContext,
        take: Callable[[StageOutputs], Iterator[Item]],
        send: Send[Item],
    ) -> None:
        with errors_as_blocking_status(context):
            outputs = self._handler.outputs_of(Epoch(request.epoch))
            items = take(outputs)
            if not context.add_callback(outputs.break_off):
                outputs.break_off()  # it is over already
            outputs.when_ended(lambda: _give_up_later(context))
            for item in items:
                send(item)
                if not context.is_active():
                    return


def _give_up_later(context: grpc.ServicerContext) -> None:
    """A thread that sends to a machine that is gone waits until the connection breaks, which nobody's pings do here."""
    timer = Timer(LAST_WORDS_S, context.cancel)
    timer.daemon = True
    timer.start()


def _timed(to_proto: Callable[[Item], Message], item: Item) -> Message:
    """The message, which carries as the last of its timings what it took to build."""
    started_at_s = time.perf_counter()
    message = to_proto(item)
    if message.timings_ms:
        message.timings_ms[-1] = (time.perf_counter() - started_at_s) * 1000
    return message
