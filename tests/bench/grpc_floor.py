"""What two messages cost over gRPC alone: below this no decode step over two nodes can come with its overhead.

    python -m tests.bench.grpc_floor [--busy-ms 10] [--steps 300]

Two processes send hidden states of 4 KiB round in a ring. Each computes for --busy-ms before it sends, outside the
interpreter's lock and through more memory than the caches hold, as a model does; with 0, both codes stay in the caches.
The receiver opens the streams and reads them on the thread that computes: Python's gRPC has no way with fewer threads.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import struct
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from queue import SimpleQueue

import grpc
import numpy as np
from grpc.experimental import ChannelOptions

from exo_lite.node.worker_process import GRPC_SETTINGS
from exo_lite.worker.awake_cores import AwakeCores
from tests.bench.hop import percentile

TIMES = struct.Struct("2d")
"""When the message was sent, and how long the sender had computed, in seconds."""
PADDING = bytes(4096 - TIMES.size)
MEMORY = np.ones((128, 2**17), dtype=np.int64)
"""In blocks of 1 MiB."""
WARM_UP = 20


class Computing:
    """In place of a stage: reads memory, as fast as that is, for about as long as told."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._block = 0

    def __call__(self) -> float:
        """How long it took, in seconds."""
        began_s = time.perf_counter()
        while time.perf_counter() < began_s + self._seconds:
            MEMORY[self._block].sum()
            self._block = (self._block + 1) % len(MEMORY)
        return time.perf_counter() - began_s


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--busy-ms", type=float, default=10.0)
    parser.add_argument("--steps", type=int, default=300)
    arguments = parser.parse_args()
    os.environ.update(GRPC_SETTINGS)
    cores = AwakeCores()
    cores.hold()  # as workers do
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    tail = context.Process(target=_tail, args=(there, arguments.busy_ms / 1000), daemon=True)
    found, finding = context.Pipe(duplex=False)
    first = context.Process(target=_first, args=(here, arguments.busy_ms / 1000, arguments.steps, finding), daemon=True)
    tail.start()
    first.start()
    values = found.recv()
    tail.kill()
    cores.close()
    p99 = percentile(values, 0.99)
    print(f"two messages, {arguments.busy_ms:g} ms of computing before each, {len(values)} rounds: ", end="")
    print(f"median {statistics.median(values):.2f} ms, p99 {p99:.2f} ms")


def _tail(pipe: Connection, busy_s: float) -> None:
    compute = Computing(busy_s)

    def answer() -> Iterator[bytes]:
        for message in _messages_from(pipe.recv()):
            sent_at_s, computed_s = TIMES.unpack_from(message)
            yield TIMES.pack(sent_at_s, computed_s + compute()) + PADDING

    server, port = _serve(answer)
    pipe.send(port)
    server.wait_for_termination()


def _first(pipe: Connection, busy_s: float, num_steps: int, finding: Connection) -> None:
    """Sends what each round took beside the computing, in ms."""
    compute, waiting, values = Computing(busy_s), SimpleQueue[float](), list[float]()

    def steps() -> Iterator[bytes]:
        while True:
            sent_at_s = waiting.get()
            yield TIMES.pack(sent_at_s, compute()) + PADDING

    results = _messages_from(pipe.recv())
    server, port = _serve(steps)
    pipe.send(port)
    while len(values) < WARM_UP + num_steps:
        waiting.put(time.perf_counter())
        sent_at_s, computed_s = TIMES.unpack_from(next(results))
        values.append(1000 * (time.perf_counter() - sent_at_s - computed_s))
    finding.send(values[WARM_UP:])
    server.stop(grace=None)


def _serve(messages: Callable[[], Iterator[bytes]]) -> tuple[grpc.Server, int]:
    """A server, and its port, at which a stream of them can be opened."""
    server = grpc.server(ThreadPoolExecutor(1))
    handler = grpc.unary_stream_rpc_method_handler(lambda _, __: messages(), _unchanged, _unchanged)
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("Ring", {"Messages": handler})])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    return server, port


def _messages_from(port: int) -> Iterator[bytes]:
    with grpc.insecure_channel(f"127.0.0.1:{port}", [(ChannelOptions.SingleThreadedUnaryStream, 1)]) as channel:
        yield from channel.unary_stream("/Ring/Messages", _unchanged, _unchanged)(b"")


def _unchanged(message: bytes) -> bytes:
    return message


if __name__ == "__main__":
    main()
