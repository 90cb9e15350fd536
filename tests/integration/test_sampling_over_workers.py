"""Penalties, bias and log probabilities over two worker processes, against one model in this process."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from exo_lite.domain.ids import Epoch, ModelId, RequestId
from exo_lite.domain.load_options import LoadOptions
from exo_lite.domain.pipeline import ConnectOrder, Endpoint
from exo_lite.domain.request import AnswerRequest, GenerateRequest, Sampling, Token
from exo_lite.domain.shard import Shard
from exo_lite.domain.step import SequenceChunk
from exo_lite.domain.worker import WorkerConfig
from exo_lite.engine.torch_c.kv_cache import KVCache
from exo_lite.engine.torch_c.llama import LlamaShard
from exo_lite.engine.torch_c.weights import load_shard
from exo_lite.node.joining import CONNECT_TIMEOUT_S
from exo_lite.node.worker_process import WorkerProcess
from exo_lite.pipeline.sampling.drawing import draw_token
from exo_lite.transport.worker_client import WorkerClient
from tests.loopback import PEERS
from tests.unit.store.tiny_models import SPEC as TINY
from tests.unit.store.tiny_models import random_tensors, write_hf_folder

MODEL = ModelId("tiny")
SPEC = replace(TINY, vocab_size=97, tie_word_embeddings=False)
CONTEXT_LENGTH = 48
NUM_TOKENS = 20
DEADLINE_S = 50.0

GREEDY = Sampling(temperature=0.0)
ASKED = [
    replace(GREEDY, logprobs=4),
    replace(GREEDY, repetition_penalty=1.5, logprobs=0),
    replace(GREEDY, presence_penalty=2.0, frequency_penalty=1.5),
    replace(GREEDY, logit_bias=((5, 100.0), (7, 99.0)), frequency_penalty=1.0, logprobs=20),
    Sampling(0.9, 0.95, 30, seed=11, min_p=0.02, repetition_penalty=1.2, presence_penalty=-0.5, logprobs=2),
    Sampling(1.3, seed=12, frequency_penalty=0.8),
]


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_hf_folder(tmp_path_factory.mktemp("models") / "tiny", SPEC, random_tensors(SPEC))


def prompt_of(index: int) -> tuple[int, ...]:
    return tuple((index * 31 + place * place * 7) % SPEC.vocab_size for place in range(5 + index))


def config(model_dir: Path, shard: Shard) -> WorkerConfig:
    return WorkerConfig(
        node_name=f"node-{shard.start_layer}",
        host="127.0.0.1",
        model_dir=str(model_dir),
        shard=shard,
        options=LoadOptions("float32", context_length=CONTEXT_LENGTH, num_slots=4),
        hidden_size=SPEC.hidden_size,
        weight_bytes=0,
        kv_cache_bytes=0,
        working_bytes=0,
        device="cpu",
        threads=1,
    )


@asynccontextmanager
async def joined_workers(model_dir: Path) -> AsyncIterator[Endpoint]:
    """The first of two workers with a layer each, joined to a pipeline."""
    changed = asyncio.Event()
    workers = [
        WorkerProcess(config(model_dir, Shard(MODEL, layer, layer, 2)), "", Epoch(1), changed.set, PEERS)
        for layer in (0, 1)
    ]
    tasks = [asyncio.create_task(worker.run()) for worker in workers]
    try:
        while any(worker.status.state != "ready" for worker in workers):
            assert all(worker.status.state != "lost" for worker in workers), [worker.status for worker in workers]
            changed.clear()
            await changed.wait()
        first, tail = (
            Endpoint(worker.config.node_name, f"127.0.0.1:{worker.status.stream_port}") for worker in workers
        )
        of_last = ConnectOrder(MODEL, Epoch(1), 1, 2, previous=first, tail=None, next_name=first.name)
        of_first = ConnectOrder(MODEL, Epoch(1), 0, 2, previous=None, tail=tail, next_name=tail.name)
        for worker, order in zip(workers[::-1], (of_last, of_first), strict=True):
            await worker.peer().connect(order, timeout_s=CONNECT_TIMEOUT_S)
        yield Endpoint(first.name, f"127.0.0.1:{workers[0].status.worker_port}")
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def answered(first: WorkerClient, index: int, sampling: Sampling) -> list[Token]:
    asked = AnswerRequest(prompt_of(index), NUM_TOKENS, sampling)
    request = GenerateRequest(RequestId(f"r{index}"), MODEL, Epoch(1), 0, asked)
    async with aclosing(first.generate(request)) as tokens:
        return [token async for token in tokens]


@dataclass
class Alone:
    """One sequence on the whole model, its scores changed token by token in plain Python."""

    shard: LlamaShard
    sampling: Sampling
    prompt: Sequence[int]

    def answer(self) -> list[tuple[int, torch.Tensor]]:
        """Each token with the raw log probabilities that it was drawn from."""
        cache = KVCache(SPEC, SPEC.n_layers, 1, CONTEXT_LENGTH, self.shard.dtype, self.shard.device)
        drawn: list[tuple[int, torch.Tensor]] = []
        pending, position = list(self.prompt), 0
        for index in range(NUM_TOKENS):
            chunk = SequenceChunk(0, position, len(pending))
            logits = self.shard.logits(self.shard.forward(torch.tensor(pending), [chunk], cache)[-1:])
            scores = self.changed(logits[0].double().tolist(), [token_id for token_id, _ in drawn])
            token_id = draw_token(np.array(scores), self.sampling, index)
            drawn.append((token_id, logits[0].double().log_softmax(-1)))
            position += len(pending)
            pending = [token_id]
        return drawn

    def changed(self, scores: list[float], answer: list[int]) -> list[float]:
        for token_id, bias in self.sampling.logit_bias:
            scores[token_id] += bias
        for token_id in {*self.prompt, *answer}:
            penalty = self.sampling.repetition_penalty
            scores[token_id] = scores[token_id] / penalty if scores[token_id] > 0 else scores[token_id] * penalty
        for token_id, count in Counter(answer).items():
            scores[token_id] -= self.sampling.presence_penalty + self.sampling.frequency_penalty * count
        return scores


def check_logprobs(token: Token, num_top: int | None, expected: torch.Tensor) -> None:
    assert (token.logprobs is None) == (num_top is None)
    if token.logprobs is None:
        return
    assert token.logprobs.chosen == pytest.approx(float(expected[token.token_id]), abs=1e-4)
    assert [logprob for _, logprob in token.logprobs.top] == pytest.approx(
        expected.topk(num_top or 0).values.tolist(), abs=1e-4
    )
    for token_id, logprob in token.logprobs.top:
        assert logprob == pytest.approx(float(expected[token_id]), abs=1e-4)


async def test_two_workers_draw_what_one_model_alone_does(model_dir: Path) -> None:
    torch.set_num_threads(1)
    async with asyncio.timeout(DEADLINE_S), joined_workers(model_dir) as endpoint:
        first = PEERS.worker(endpoint)
        try:
            answers = await asyncio.gather(*(answered(first, *one) for one in enumerate(ASKED)))
        finally:
            await first.close()
    whole = load_shard(
        model_dir, SPEC, Shard(MODEL, 0, 1, 2), dtype="float32", device="cpu", on_progress=lambda fraction: None
    )
    for index, (sampling, tokens) in enumerate(zip(ASKED, answers, strict=True)):
        expected = Alone(whole, sampling, prompt_of(index)).answer()
        assert [token.token_id for token in tokens] == [token_id for token_id, _ in expected], sampling
        for token, (_, logarithms) in zip(tokens, expected, strict=True):
            check_logprobs(token, sampling.logprobs, logarithms)
    plain = Alone(whole, GREEDY, prompt_of(1)).answer()
    assert [token.token_id for token in answers[1]] != [token_id for token_id, _ in plain]  # the penalty did something
