"""One worker program: started, asked how it is, ended."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NoReturn

from exo_lite.domain.addresses import join_address
from exo_lite.domain.errors import (
    ExoLiteError,
    NodeLost,
    OutOfMemory,
    PortInUse,
    WorkerCannotStart,
    WorkerFailed,
    WorkerHangs,
)
from exo_lite.domain.ids import Epoch
from exo_lite.domain.node import ShardStatus
from exo_lite.domain.pipeline import Endpoint
from exo_lite.domain.worker import WorkerConfig
from exo_lite.domain.worker_report import WorkerFailure, WorkerReport
from exo_lite.node.last_words import LastWords
from exo_lite.node.oom import num_oom_kills
from exo_lite.node.peers import Peers, PeerWorker

log = logging.getLogger(__name__)

POLL_EVERY_S = 0.25
STATUS_TIMEOUT_S = 1.0
LAST_WORDS_WITHIN_S = 1.0
CHUNK_BYTES = 16 * 1024
STDERR = 2

KERNEL_CACHE_FALLBACK = "EXO_LITE_KERNEL_CACHE_FALLBACK"
"""Names, to a worker, where its compiled kernels may be kept if this user's cache folder cannot be written."""

GRPC_SETTINGS = {
    "GRPC_EXPERIMENTS": "-event_engine_client,-event_engine_listener",
    "GRPC_POLL_STRATEGY": "poll",
}
"""gRPC's older event loop, and in it the way to wait in which each thread watches its own connections: a message wakes
no thread but the one that is to have it."""


@dataclass(frozen=True, slots=True)
class _Listening:
    """The ports of a worker's two servers."""

    port: int
    stream_port: int


class WorkerProcess:
    """Runs as one task from start to exit. `status` is its newest word, or what is known of its end."""

    def __init__(
        self,
        config: WorkerConfig,
        fingerprint: str,
        epoch: Epoch,
        on_change: Callable[[], None],
        peers: Peers,
        *,
        own_host: str = "127.0.0.1",
        count_oom_kills: Callable[[], int | None] = num_oom_kills,
    ) -> None:
        """`own_host`: by which this machine reaches what its worker binds."""
        self.config = config
        self._own_host = own_host
        self.fingerprint = fingerprint
        self._on_change = on_change
        self._peers = peers
        self._client: PeerWorker | None = None
        self._last_words = LastWords()
        self._count_oom_kills = count_oom_kills
        self._num_oom_kills = count_oom_kills()
        self.status = ShardStatus(
            shard=config.shard,
            placed_epoch=epoch,
            weight_bytes=config.weight_bytes,
            kv_cache_bytes=config.kv_cache_bytes,
            working_bytes=config.working_bytes,
        )

    async def run(self) -> None:
        """Start the program and watch it until it ends or this task is cancelled, which ends it."""
        try:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "exo_lite.worker"),
                stdin=PIPE,
                stdout=PIPE,
                stderr=PIPE,
                env={**GRPC_SETTINGS, **os.environ},
            )
        except OSError as error:
            self._lose(WorkerCannotStart(f"no worker can be started on {self.config.node_name}: {error}"))
            return
        listening_to_it = asyncio.create_task(self._pass_on_stderr(process))
        try:
            listening = await self._start(process)
            endpoint = Endpoint(self.config.node_name, join_address(self._own_host, listening.port))
            self._client = self._peers.worker(endpoint)
            await self._watch(process, listening, self._client)
        except (NodeLost, PortInUse) as error:
            await asyncio.wait({listening_to_it}, timeout=LAST_WORDS_WITHIN_S)
            self._lose(self._with_last_words(error))
        except Exception as error:  # a task's top: whatever it was, the shard is lost, and not the node
            what = f"the worker on {self.config.node_name} cannot be watched: {type(error).__name__}: {error}"
            self._lose(WorkerFailed(what))
            raise
        finally:
            listening_to_it.cancel()
            if process.returncode is None:
                process.kill()  # a worker has nothing to save
            await process.wait()
            if self._client is not None:
                await self._client.close()

    def peer(self) -> PeerWorker:
        """The way to it. Raises NodeLost before it listens."""
        if self._client is None:
            raise NodeLost(f"the worker on {self.config.node_name} does not listen yet")
        return self._client

    def keep_for(self, epoch: Epoch) -> None:
        """The same shard serves a newer placement."""
        self._update(replace(self.status, placed_epoch=epoch))

    async def _start(self, process: Process) -> _Listening:
        """The worker's ports, once it listens."""
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(self.config.to_json().encode() + b"\n")
        line = await process.stdout.readline()
        if not line:
            raise self._exit_cause(await process.wait(), WorkerCannotStart)
        try:
            answer = json.loads(line)
            if "error" in answer:
                raise PortInUse(f"no worker can be started on {self.config.node_name}: {answer['error']}")
            return _Listening(int(answer["port"]), int(answer["stream_port"]))
        except (ValueError, KeyError, TypeError) as error:
            said = f"the worker on {self.config.node_name} said {line!r} instead of its ports"
            raise WorkerCannotStart(said) from error

    async def _pass_on_stderr(self, process: Process) -> None:
        """Copy standard error to this daemon's own, keeping the last of it."""
        assert process.stderr is not None
        while chunk := await process.stderr.read(CHUNK_BYTES):
            self._last_words.feed(chunk)
            await asyncio.to_thread(os.write, STDERR, chunk)

    def _with_last_words(self, error: NodeLost | PortInUse) -> NodeLost | PortInUse:
        words = self._last_words.text() if isinstance(error, WorkerFailed) else None
        return error if words is None else type(error)(f"{error}; its last output: {words}")

    async def _watch(self, process: Process, listening: _Listening, client: PeerWorker) -> None:
        exited = asyncio.ensure_future(process.wait())
        polled = asyncio.ensure_future(self._poll(client, listening))
        waited: set[asyncio.Future[Any]] = {exited, polled}
        try:
            await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
            if exited.done():
                raise self._exit_cause(exited.result(), WorkerFailed)
            await polled
        finally:
            exited.cancel()
            polled.cancel()

    async def _poll(self, client: PeerWorker, listening: _Listening) -> NoReturn:
        """Raises NodeLost: the thread that computes may be busy for long, the worker's event loop never is."""
        patience_s = self.config.hang_timeout_s
        while True:
            try:
                async with asyncio.timeout(patience_s):
                    report = await _ask_until_answered(client)
            except TimeoutError as error:
                raise WorkerHangs(
                    f"the worker on {self.config.node_name} has not answered for {patience_s:g} s"
                ) from error
            port, stream_port = listening.port, listening.stream_port
            self._update(replace(self.status, report=report, worker_port=port, stream_port=stream_port))
            await asyncio.sleep(POLL_EVERY_S)

    def _exit_cause(self, return_code: int, cause: type[WorkerFailed]) -> WorkerFailed:
        who = f"the worker on {self.config.node_name}"
        num_oom_kills = self._count_oom_kills()
        if return_code == -signal.SIGKILL and (num_oom_kills or 0) > (self._num_oom_kills or 0):
            return OutOfMemory(f"{who} was killed by the kernel: the machine, or the container, ran out of memory")
        how = f"was killed by signal {-return_code}" if return_code < 0 else f"exited with code {return_code}"
        return cause(f"{who} {how}")

    def _lose(self, error: ExoLiteError) -> None:
        end = WorkerFailure(str(error), error.code)
        self._update(replace(self.status, worker_port=None, stream_port=None, end=end))

    def _update(self, status: ShardStatus) -> None:
        if status != self.status:
            self.status = status
            self._on_change()


async def _ask_until_answered(client: PeerWorker) -> WorkerReport:
    while True:
        try:
            return await client.report(timeout_s=STATUS_TIMEOUT_S)
        except ExoLiteError:
            await asyncio.sleep(POLL_EVERY_S)
