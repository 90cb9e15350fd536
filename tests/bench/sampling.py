"""What the last stage takes after its layers: from logits to sampled tokens, without a model.

    python -m tests.bench.sampling [--rows 1 4 8] [--vocab-size 49152 128256] [--kind greedy top_p …] [--steps 60]

Each cell is a kind of sampling, a vocabulary and a number of sequences: it prints what a step takes, its median and its
fastest tenth. Logits are random, and new in each step. Before each step the caches are filled with other data, as a
model's layers do; with --warm they are not.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from exo_lite.domain.ids import Epoch, ModelId
from exo_lite.domain.request import Sampling
from exo_lite.domain.shard import Shard
from exo_lite.domain.step import Admission, SequenceChunk, Step, StepMessage
from exo_lite.engine.torch_c.loaded_shard import TorchShard
from exo_lite.pipeline.stage import Stage

BIAS = tuple((1000 + 3 * one, one / 2) for one in range(10))
KINDS = {
    "greedy": Sampling(temperature=0.0),
    "logprobs": Sampling(temperature=0.0, logprobs=5),
    "bias": Sampling(temperature=0.0, logit_bias=BIAS),
    "top_p": Sampling(temperature=0.8, top_p=0.9),
    "top_k_min_p": Sampling(temperature=0.8, top_k=40, min_p=0.05),
    "repetition": Sampling(temperature=0.8, repetition_penalty=1.1),
}
PROMPT = tuple(range(0, 2000, 10))
NUM_LOGITS = 4
"""Different ones, in turn."""
NUM_LIKELY = 50
WARM_UP_STEPS = 4
OTHER_DATA_BYTES = 48 << 20


@dataclass(frozen=True, slots=True)
class Cell:
    kind: str
    vocab_size: int
    num_rows: int

    def __str__(self) -> str:
        return f"{self.kind}, vocabulary {self.vocab_size}, rows {self.num_rows}"


class GivenLogits:
    """A shard and its KV cache, as far as TorchShard looks: logits are there already."""

    numerics = None
    device = torch.device("cpu")
    shard = Shard(ModelId("m"), 0, 0, 1)

    def __init__(self, vocab_size: int, num_sequences: int) -> None:
        self.vocab_size, self.num_sequences = vocab_size, num_sequences
        self.next_logits = torch.empty(0)

    @property
    def spec(self) -> GivenLogits:
        return self

    def admit(self, sequence_index: int, blocks: Sequence[int], *, num_cached_tokens: int) -> None:
        pass

    def forward(self, inputs: Tensor, chunks: object, kv_cache: object) -> Tensor:
        return inputs

    def logits(self, hidden_states: Tensor) -> Tensor:
        return self.next_logits


def step_times_us(cell: Cell, num_steps: int, *, is_warm: bool = False) -> list[float]:
    """What each step takes."""
    generator = torch.Generator().manual_seed(0)
    logits = [_peaked_logits(cell, generator) for _ in range(NUM_LOGITS)]
    other_data = torch.zeros(0 if is_warm else OTHER_DATA_BYTES // 8, dtype=torch.int64)
    shard = GivenLogits(cell.vocab_size, cell.num_rows)
    stage = Stage(TorchShard(cast(Any, shard), cast(Any, shard)))
    times_us = []
    for index in range(num_steps + WARM_UP_STEPS):
        other_data.sum()
        shard.next_logits = logits[index % NUM_LOGITS].clone()
        message = _message(cell, index)
        began_s = time.perf_counter()
        stage.compute(message)
        times_us.append((time.perf_counter() - began_s) * 1e6)
    return times_us[WARM_UP_STEPS:]


def _peaked_logits(cell: Cell, generator: torch.Generator) -> Tensor:
    """Logits of which some are likely, as a model's."""
    logits = torch.randn((cell.num_rows, cell.vocab_size), generator=generator) * 2.0
    likely = torch.randint(cell.vocab_size, (cell.num_rows, NUM_LIKELY), generator=generator)
    return logits.scatter_add_(1, likely, torch.rand(likely.shape, generator=generator) * 15.0)


def _message(cell: Cell, index: int) -> StepMessage:
    """The step that draws token `index` of each sequence."""
    sampling, sequences = KINDS[cell.kind], range(cell.num_rows)
    prompt = PROMPT if sampling.needs_prompt else ()
    admissions = () if index else tuple(Admission(one, sampling, prompt) for one in sequences)
    chunks = tuple(SequenceChunk(one, index, 1, (0,), index) for one in sequences)
    return StepMessage(Step(Epoch(1), index, chunks, admissions))


def _cells(arguments: argparse.Namespace) -> Iterable[Cell]:
    for kind in arguments.kind:
        for vocab_size in arguments.vocab_size:
            for num_rows in arguments.rows:
                yield Cell(kind, vocab_size, num_rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--vocab-size", nargs="+", type=int, default=[49_152, 128_256])
    parser.add_argument("--rows", nargs="+", type=int, default=[1, 4, 8])
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--warm", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    for cell in _cells(arguments):
        times_us = sorted(step_times_us(cell, arguments.steps, is_warm=arguments.warm))
        tenth = times_us[len(times_us) // 10]
        print(
            f"{cell}: a step takes {statistics.median(times_us):.0f} µs, the fastest tenth {tenth:.0f} µs", flush=True
        )


if __name__ == "__main__":
    main()
