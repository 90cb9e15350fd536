"""Worker programs that hold parts of a tiny Llama, and transformers' answers from the same checkpoint."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from exo_lite.domain.engine import are_same_numbers
from exo_lite.domain.ids import Epoch, ModelId, RequestId
from exo_lite.domain.load_options import LoadOptions
from exo_lite.domain.node import ShardStatus
from exo_lite.domain.pipeline import ConnectOrder, Endpoint
from exo_lite.domain.request import AnswerRequest, GenerateRequest, Sampling, Token
from exo_lite.domain.shard import Shard
from exo_lite.domain.worker import WorkerConfig
from exo_lite.domain.worker_report import DriverReport
from exo_lite.node.joining import CONNECT_TIMEOUT_S
from exo_lite.node.worker_process import WorkerProcess
from exo_lite.transport.worker_client import WorkerClient
from tests.loopback import PEERS
from tests.waiting import until

MODEL = ModelId("tiny-llama")
N_LAYERS = 4
HIDDEN_SIZE = 32
CONTEXT_LENGTH = 512
NUM_SLOTS = 4
START_TIMEOUT_S = 40.0

_epochs = itertools.count(1)
_request_ids = itertools.count(1)


def next_epoch() -> Epoch:
    """Greater than every one before, so that tests share workers without sharing a pipeline."""
    return Epoch(next(_epochs))


@dataclass(frozen=True)
class TinyLlama:
    """A random checkpoint on disk and the reference that wrote it."""

    path: Path
    reference: LlamaForCausalLM

    def greedy(self, prompt: Sequence[int], num_tokens: int) -> list[int]:
        token_ids = list(prompt)
        with torch.inference_mode():
            for _ in range(num_tokens):
                logits: torch.Tensor = self.reference(torch.tensor([token_ids])).logits
                token_ids.append(int(logits[0, -1].argmax()))
        return token_ids[len(prompt) :]


def make_tiny_llama(path: Path) -> TinyLlama:
    torch.set_num_threads(1)
    config = LlamaConfig(
        vocab_size=97,
        hidden_size=HIDDEN_SIZE,
        intermediate_size=48,
        num_hidden_layers=N_LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT_LENGTH,
    )
    model = LlamaForCausalLM(config).float().eval()
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(1 + 0.3 * noise if "norm" in name else 0.25 * noise)
    model.save_pretrained(path)
    return TinyLlama(path, model)


def config_for(name: str, model_dir: Path, start_layer: int = 0, end_layer: int = N_LAYERS - 1) -> WorkerConfig:
    return WorkerConfig(
        node_name=name,
        host="127.0.0.1",
        model_dir=str(model_dir),
        shard=Shard(MODEL, start_layer, end_layer, N_LAYERS),
        options=LoadOptions("float32", context_length=CONTEXT_LENGTH, num_slots=NUM_SLOTS),
        hidden_size=HIDDEN_SIZE,
        weight_bytes=1,
        kv_cache_bytes=2,
        working_bytes=3,
        device="cpu",
        threads=1,
    )


@dataclass
class RunningWorker:
    """A worker's process with what it has said of itself, and a client of it."""

    process: WorkerProcess
    history: list[ShardStatus] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.process.config.node_name

    @property
    def driver(self) -> DriverReport:
        """What it says of the whole pipeline; nothing yet before it is in one."""
        return self.status.driver or DriverReport()

    @property
    def error(self) -> str | None:
        failure = self.status.failure
        return failure.text if failure else None

    @property
    def status(self) -> ShardStatus:
        return self.process.status

    @property
    def endpoint(self) -> Endpoint:
        return self._endpoint(self.status.worker_port)

    @property
    def stream_endpoint(self) -> Endpoint:
        return self._endpoint(self.status.stream_port)

    def _endpoint(self, port: int | None) -> Endpoint:
        assert port is not None, self.status
        return Endpoint(self.name, f"127.0.0.1:{port}")

    def program(self) -> psutil.Process:
        """The program behind it, found by the port that it listens on."""
        port = int(self.endpoint.address.rpartition(":")[2])
        for child in psutil.Process().children():
            if any(one.laddr.port == port for one in child.net_connections("tcp") if one.status == psutil.CONN_LISTEN):
                return child
        raise AssertionError(f"nothing of ours listens on port {port}")


@asynccontextmanager
async def running(*configs: WorkerConfig) -> AsyncIterator[list[RunningWorker]]:
    """Workers at once, loaded or failed; their programs end with the context."""
    workers: list[RunningWorker] = []
    async with asyncio.TaskGroup() as tasks:
        for config in configs:
            worker = RunningWorker(WorkerProcess(config, "fingerprint", Epoch(0), lambda: None, PEERS))
            worker.process._on_change = lambda worker=worker: worker.history.append(worker.status)  # type: ignore[misc]
            workers.append(worker)
        runs = [tasks.create_task(worker.process.run()) for worker in workers]
        try:
            for worker in workers:
                is_loaded = lambda worker=worker: worker.status.state != "loading"  # noqa: E731
                await until(is_loaded, f"{worker.name} loaded", timeout_s=START_TIMEOUT_S)
            yield workers
        finally:
            for run in runs:
                run.cancel()


@asynccontextmanager
async def client_of(worker: RunningWorker) -> AsyncIterator[WorkerClient]:
    client = PEERS.worker(worker.endpoint)
    try:
        yield client
    finally:
        await client.close()


async def join(*workers: RunningWorker, endpoints: Sequence[Endpoint] | None = None) -> Epoch:
    """Make a pipeline of them, in a new epoch. `endpoints`: where they reach each other, if not where they listen."""
    epoch = next_epoch()
    endpoints, last = endpoints or [worker.stream_endpoint for worker in workers], len(workers) - 1
    for stage in range(last, -1, -1):
        order = ConnectOrder(
            model_id=MODEL,
            epoch=epoch,
            stage=stage,
            num_stages=len(workers),
            previous=endpoints[stage - 1] if stage else None,
            tail=endpoints[last] if stage == 0 < last else None,
            next_name=endpoints[(stage + 1) % len(endpoints)].name,
            is_exact=are_same_numbers([worker.status.report.numerics for worker in workers]),
        )
        await workers[stage].process.peer().connect(order, timeout_s=CONNECT_TIMEOUT_S)
    return epoch


def request(epoch: Epoch, prompt: Sequence[int], num_tokens: int) -> GenerateRequest:
    """A greedy one."""
    return GenerateRequest(
        request_id=RequestId(f"request-{next(_request_ids)}"),
        model_id=MODEL,
        epoch=epoch,
        attempt=0,
        asked=AnswerRequest(tuple(prompt), num_tokens, Sampling(temperature=0.0)),
    )


async def answer(first: RunningWorker, asked: GenerateRequest) -> list[int]:
    async with client_of(first) as client, aclosing(client.generate(asked)) as tokens:
        received: list[Token] = [token async for token in tokens]
    assert [token.index for token in received] == list(range(len(received)))
    assert [token.finish_reason for token in received[-1:]] == ["length"]
    return [token.token_id for token in received]
