"""What the scheduler is for, measured over real workers: one figure, or ratio, for each of its promises.

    python -m tests.bench.serving --models-dir DIR [--model smollm2-135m] [--quant int8] [--stages 1] MEASUREMENT...

prompt      how a 2,000-token prompt changes the time between tokens of 4 running answers
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import random
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path

from exo_lite.catalog.hf_config import spec_from_config
from exo_lite.domain.ids import Epoch, RequestId
from exo_lite.domain.model_spec import ModelSpec
from exo_lite.domain.plan import LoadOptions
from exo_lite.domain.request import GenerateRequest, Sampling
from exo_lite.domain.shard import Shard
from exo_lite.domain.worker import WorkerConfig
from exo_lite.transport.worker_client import WorkerClient
from tests.bench.models import model_folder
from tests.integration.real_workers import MODEL, RunningWorker, client_of, join, running
from tests.waiting import until

CONTEXT_LENGTH = 4096
NUM_THREADS = 2
NUM_PROMPT_TOKENS = 2000
NUM_ANSWERS = 4

_request_ids = itertools.count(1)


@dataclass
class Answer:
    """An answer as it came, with the monotonic time of each token."""

    sent_at_s: float
    token_ids: list[int] = field(default_factory=list)
    times_s: list[float] = field(default_factory=list)

    @property
    def first_token_s(self) -> float:
        return self.times_s[0] - self.sent_at_s

    def gaps_ms(self, start_s: float, end_s: float) -> list[float]:
        """Between tokens, of those that came within a span of time."""
        pairs = itertools.pairwise(self.times_s)
        return [1000 * (later - earlier) for earlier, later in pairs if start_s <= earlier and later <= end_s]


@dataclass(frozen=True)
class Pipeline:
    """The head's client, and what requests need to name it."""

    client: WorkerClient
    epoch: Epoch
    spec: ModelSpec

    def prompt(self, num_tokens: int, seed: int) -> list[int]:
        return random.Random(seed).choices(range(100, self.spec.vocab_size), k=num_tokens)

    async def ask(self, prompt: Sequence[int], num_tokens: int, answer: Answer | None = None) -> Answer:
        """`answer` is filled as tokens come, for those who watch."""
        answer = answer or Answer(time.monotonic())
        request = GenerateRequest(
            request_id=RequestId(f"bench-{next(_request_ids)}"),
            model_id=MODEL,
            epoch=self.epoch,
            attempt=0,
            token_ids=tuple(prompt),
            max_tokens=num_tokens,
            sampling=Sampling(temperature=0.0),
        )
        async with aclosing(self.client.generate(request)) as tokens:
            async for token in tokens:
                answer.token_ids.append(token.token_id)
                answer.times_s.append(time.monotonic())
        return answer


def percentile(values: Sequence[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


async def measure_prompt(pipeline: Pipeline, number: int) -> None:
    """Four answers run; a long prompt comes in among them."""
    answers = [Answer(time.monotonic()) for _ in range(NUM_ANSWERS)]
    async with asyncio.TaskGroup() as tasks:
        asking = [
            tasks.create_task(pipeline.ask(pipeline.prompt(20, 10 * number + index), 1500, answer))
            for index, answer in enumerate(answers)
        ]
        await until(lambda: all(len(answer.times_s) >= 100 for answer in answers), "answers run", timeout_s=120.0)
        start_s = max(answer.times_s[20] for answer in answers)
        arrival_s = time.monotonic()
        long = await pipeline.ask(pipeline.prompt(NUM_PROMPT_TOKENS, 10 * number + 9), 1)
        end_s = time.monotonic()
        for one in asking:
            one.cancel()
    before = [gap for answer in answers for gap in answer.gaps_ms(start_s, arrival_s)]
    during = [gap for answer in answers for gap in answer.gaps_ms(arrival_s, end_s)]
    for label, gaps in (("before", before), ("during", during)):
        print(f"  {label}: median {statistics.median(gaps):.1f} ms, p95 {percentile(gaps, 0.95):.1f} ms")
    print(f"  the prompt: {long.first_token_s:.2f} s to its first token")
    print(f"  p95 during : before = {percentile(during, 0.95) / percentile(before, 0.95):.2f}", flush=True)


MEASUREMENTS: dict[str, Callable[[Pipeline, int], Awaitable[None]]] = {"prompt": measure_prompt}


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
    async with running(*stage_configs(arguments, folder, spec)) as workers:
        for name in arguments.measurements:
            await _measure_one(name, workers, spec, arguments.rounds)


async def _measure_one(name: str, workers: Sequence[RunningWorker], spec: ModelSpec, num_rounds: int) -> None:
    for number in range(num_rounds):
        epoch = await join(*workers)
        async with client_of(workers[0]) as client:
            pipeline = Pipeline(client, epoch, spec)
            await pipeline.ask(pipeline.prompt(300, 1), 20)  # warm up
            print(f"{name}, round {number + 1}:")
            await MEASUREMENTS[name](pipeline, number)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models-dir", type=Path, required=True)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--quant", choices=["none", "int8", "int4"], default="int8")
    parser.add_argument("--stages", type=int, choices=[1, 2], default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("measurements", nargs="+", choices=[*MEASUREMENTS])
    asyncio.run(measure(parser.parse_args()))


if __name__ == "__main__":
    main()
