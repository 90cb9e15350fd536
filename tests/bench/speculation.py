"""What guessing tokens from the text so far brings, over real workers: tokens/s with and without.

    python -m tests.bench.speculation --models-dir DIR [--model smollm2-135m] [--quant int8] [--stages 1] MEASUREMENT...

copy        an answer that repeats a text, with --hop-ms added to each hop
ordinary    1 and 4 answers that repeat little
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from exo_lite.catalog.hf_config import spec_from_config
from exo_lite.domain.ids import Epoch, RequestId
from exo_lite.domain.load_options import LoadOptions
from exo_lite.domain.model_spec import ModelSpec
from exo_lite.domain.pipeline import Endpoint
from exo_lite.domain.request import AnswerRequest, GenerateRequest, Sampling
from exo_lite.domain.shard import Shard
from exo_lite.domain.worker import WorkerConfig
from exo_lite.node.served_text import ServedText
from exo_lite.transport.worker_client import WorkerClient
from tests.bench.delay_proxy import delayed
from tests.bench.models import model_folder
from tests.integration.real_workers import MODEL, RunningWorker, client_of, join, running

CONTEXT_LENGTH = 4096
NUM_THREADS = 2
NUM_ANSWERS = 4
MAX_COPIED = 200
TEXT = (
    "The quick brown fox jumps over the lazy dog near the old stone bridge. In the morning, seven grey herons stood in "
    "the shallow water and waited for fish. A farmer named Peter Hansen carried two baskets of red apples to market "
    "in Oakfield, where his sister sold cheese, honey and fresh bread. By noon the square was full of people. "
    "When the church bell rang twelve times, the children ran down the hill and counted the boats on the river. An old "
    "man with a green hat played the violin, and nobody wanted to go home before the evening."
)

GREEDY = Sampling(temperature=0.0)

_request_ids = itertools.count(1)


@dataclass
class Answer:
    """An answer as it came, with the monotonic time of each token."""

    token_ids: list[int] = field(default_factory=list)
    times_s: list[float] = field(default_factory=list)

    @property
    def rate(self) -> float:
        """Tokens/s after the first one."""
        return (len(self.times_s) - 1) / (self.times_s[-1] - self.times_s[0])


@dataclass(frozen=True)
class Pipeline:
    """The driver's client, and what requests need to name it."""

    client: WorkerClient
    epoch: Epoch

    async def ask(
        self,
        prompt: Sequence[int],
        num_tokens: int,
        stop_token_ids: frozenset[int] = frozenset(),
        sampling: Sampling = GREEDY,
    ) -> Answer:
        answer = Answer()
        request = GenerateRequest(
            request_id=RequestId(f"bench-{next(_request_ids)}"),
            model_id=MODEL,
            epoch=self.epoch,
            attempt=0,
            asked=AnswerRequest(tuple(prompt), num_tokens, sampling, stop_token_ids),
        )
        async with aclosing(self.client.generate(request)) as tokens:
            async for token in tokens:
                answer.token_ids.append(token.token_id)
                answer.times_s.append(time.monotonic())
        return answer


@dataclass(frozen=True)
class Bench:
    """Workers with and without speculation, each set a whole pipeline."""

    folder: Path
    spec: ModelSpec
    hop_s: float
    guessing: Sequence[RunningWorker]
    plain: Sequence[RunningWorker]

    def prompt(self, num_tokens: int, seed: int) -> list[int]:
        return random.Random(seed).choices(range(100, self.spec.vocab_size), k=num_tokens)

    @asynccontextmanager
    async def pipeline(self, workers: Sequence[RunningWorker], *, hop_s: float = 0.0) -> AsyncIterator[Pipeline]:
        """A new epoch of these workers, warmed up."""
        async with AsyncExitStack() as proxies, client_of(workers[0]) as client:
            endpoints = [worker.stream_endpoint for worker in workers]
            if hop_s:
                endpoints = [
                    Endpoint(endpoint.name, await proxies.enter_async_context(delayed(endpoint.address, hop_s)))
                    for endpoint in endpoints
                ]
            pipeline = Pipeline(client, await join(*workers, endpoints=endpoints))
            await pipeline.ask(self.prompt(300, 1), 20)
            yield pipeline


async def measure_copy(bench: Bench, number: int) -> None:
    text = ServedText(bench.folder, CONTEXT_LENGTH)
    messages = [{"role": "user", "content": f"Repeat this text word for word, and nothing else:\n\n{TEXT}"}]
    prompt = text.encode(text.render_chat(messages) + TEXT[: TEXT.index(" jumps")], add_bos=False)
    answers = []
    for label, workers in (("plain", bench.plain), ("guessing", bench.guessing)):
        async with bench.pipeline(workers, hop_s=bench.hop_s) as pipeline:
            answers.append(await pipeline.ask(prompt, MAX_COPIED, stop_token_ids=text.stop_token_ids))
        print(f"  {label}: {len(answers[-1].token_ids)} tokens, {answers[-1].rate:.1f} tokens/s")
    plain, guessing = answers
    print(f"  the same tokens: {guessing.token_ids == plain.token_ids}")
    print(f"  guessing : plain = {guessing.rate / plain.rate:.2f}", flush=True)


async def measure_ordinary(bench: Bench, number: int) -> None:
    text = ServedText(bench.folder, CONTEXT_LENGTH)
    messages = [{"role": "user", "content": "Tell me a long story about a lighthouse keeper and a storm."}]
    prompt = text.encode(text.render_chat(messages), add_bos=False)
    for num_streams in (1, NUM_ANSWERS):
        rates = []
        for workers in (bench.plain, bench.guessing):
            async with bench.pipeline(workers) as pipeline:
                asking = (
                    pipeline.ask(prompt, 200, sampling=Sampling(temperature=0.8, seed=10 * number + index))
                    for index in range(num_streams)
                )
                rates.append(sum(answer.rate for answer in await asyncio.gather(*asking)))
        plain, guessing = rates
        print(f"  {num_streams} answers: plain {plain:.1f}, guessing {guessing:.1f} tokens/s", end=", ")
        print(f"guessing : plain = {guessing / plain:.2f}", flush=True)


MEASUREMENTS: dict[str, Callable[[Bench, int], Awaitable[None]]] = {
    "copy": measure_copy,
    "ordinary": measure_ordinary,
}


def stage_configs(arguments: argparse.Namespace, folder: Path, spec: ModelSpec) -> list[WorkerConfig]:
    """Layers in equal parts; the machine's threads too."""
    bounds = [round(index * spec.n_layers / arguments.stages) for index in range(arguments.stages + 1)]
    return [
        WorkerConfig(
            node_name=f"stage-{index}",
            host="127.0.0.1",
            model_dir=str(folder),
            shard=Shard(MODEL, start, end - 1, spec.n_layers),
            options=LoadOptions(spec.dtype, arguments.quant, CONTEXT_LENGTH),
            hidden_size=spec.hidden_size,
            weight_bytes=1,
            kv_cache_bytes=1,
            working_bytes=1,
            device="cpu",
            threads=NUM_THREADS // arguments.stages,
        )
        for index, (start, end) in enumerate(itertools.pairwise(bounds))
    ]


async def measure(arguments: argparse.Namespace) -> None:
    folder = model_folder(arguments.model, arguments.models_dir)
    spec = spec_from_config(json.loads((folder / "config.json").read_text()))
    configs = stage_configs(arguments, folder, spec)
    configs += [replace(one, options=replace(one.options, speculation=False)) for one in configs]
    async with running(*configs) as workers:
        sets = workers[: arguments.stages], workers[arguments.stages :]
        bench = Bench(folder, spec, arguments.hop_ms / 1000, *sets)
        for name, number in itertools.product(arguments.measurements, range(arguments.rounds)):
            print(f"{name}, round {number + 1}:")
            await MEASUREMENTS[name](bench, number)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models-dir", type=Path, required=True)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--quant", choices=["none", "int8", "int4"], default="int8")
    parser.add_argument("--stages", type=int, choices=[1, 2], default=1)
    parser.add_argument("--hop-ms", type=float, default=10.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("measurements", nargs="+", choices=[*MEASUREMENTS])
    asyncio.run(measure(parser.parse_args()))


if __name__ == "__main__":
    main()
