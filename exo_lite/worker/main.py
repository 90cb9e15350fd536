"""The worker program: `python -m exo_lite.worker`, started by a daemon and never by hand.

The daemon writes one line of WorkerConfig to standard input and keeps it open; the worker answers with one line
{"port": N, "stream_port": M} on standard output, or {"error": "…"} where there are no ports for it. When standard input
ends, the daemon is gone, and so is the worker.

Its threads, what runs on each, and the locks between them:

| thread | runs | locks |
|---|---|---|
| main | the event loop: Worker, and the answers of Driver | Worker._connecting: one order |
| loading | load_stage, and ends with it | none: the stage is there once it is whole |
| stage-N | the stream to the next stage: Session takes a step, Stage computes it | Worker._computing: one step |
| results | the first stage's decisions: Driver.on_result; computes too, if alone | Driver._lock: the scheduler |
| timers | the patience of Session.break_off | Session._lock: how the session ended |
| stdin | ends the process with its daemon | none |
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
import threading
import time
from collections.abc import Mapping
from typing import TextIO

from exo_lite.domain.errors import PortInUse, StepHangs
from exo_lite.domain.logs import set_up_logging
from exo_lite.domain.model_spec import DTYPE_BYTES
from exo_lite.domain.step import PREFILL_CHUNK_TOKENS
from exo_lite.domain.worker import WorkerConfig
from exo_lite.engine.engine import Engine
from exo_lite.engine.table import ENGINES
from exo_lite.transport.channels import STEP_OVERHEAD_BYTES
from exo_lite.transport.peers import GrpcPeers
from exo_lite.transport.sampling_codec import MAX_SCORE_BYTES, max_admission_bytes
from exo_lite.worker.worker import Worker

log = logging.getLogger(__name__)

EXIT_STEP_HANGS = 70
"""EX_SOFTWARE of sysexits.h."""


def main() -> None:
    config = WorkerConfig.from_json(sys.stdin.readline())
    set_up_logging(config.log_format, source=f"{config.node_name} {config.shard}")
    threading.Thread(target=_exit_with_daemon, args=(sys.stdin,), daemon=True).start()
    engine = ENGINES[config.engine]
    engine.prepare(config.threads)
    asyncio.run(_serve(config, engine))


def _exit_with_daemon(stdin: TextIO) -> None:
    stdin.read()
    os._exit(0)  # at once, even in the middle of a computation: a worker has nothing to save


async def _serve(config: WorkerConfig, engine: Engine) -> None:
    peers = GrpcPeers(
        config.credentials, max_message_bytes=_max_message_bytes(config), hang_timeout_s=config.hang_timeout_s
    )
    worker = Worker(config, engine, peers=peers, clock=time.monotonic)
    server, stage_server = peers.worker_server(worker), peers.stage_server(worker)
    within = (config.host, config.first_port, config.last_port)
    try:
        ports = {"port": peers.bind_within(server, *within), "stream_port": peers.bind_within(stage_server, *within)}
    except PortInUse as error:
        _tell({"error": str(error)})
        return
    await server.start()
    stage_server.start()
    _tell(ports)
    try:
        await worker.run()
    except StepHangs as error:
        log.error("a step hangs", extra={"shard": str(config.shard), "cause": str(error)})
        os._exit(EXIT_STEP_HANGS)  # its thread would keep the interpreter from ending
    finally:
        await server.stop(grace=None)
        stage_server.stop(grace=None)


def _tell(answer: Mapping[str, int | str]) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


def _max_message_bytes(config: WorkerConfig) -> int:
    """Return the size of the largest step (a chunk of prompt, a decode and an admission of every slot) or result.

    Hidden states travel in a type of the engine's choice: the widest counts.
    """
    options = config.options
    num_tokens = PREFILL_CHUNK_TOKENS + options.num_sequences
    tensor_bytes = num_tokens * config.hidden_size * max(DTYPE_BYTES.values())
    tensor_bytes += PREFILL_CHUNK_TOKENS * MAX_SCORE_BYTES
    return tensor_bytes + options.num_slots * max_admission_bytes(options.context_length) + STEP_OVERHEAD_BYTES
