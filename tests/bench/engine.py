"""How fast one shard engine computes, without a network: a model in one process, driven step by step as a worker does.

    python -m tests.bench.engine --model 1b [--quant none int8 int4] [--threads 1 2]

For each quantization and number of threads, a process of its own measures the machine's read bandwidth with as many
threads, the prefill of prompts and the decode of batches, and says which share of the bandwidth reading the weights
takes: (bytes of weights per step) * (steps/s) / bandwidth. Models: `tiny`, `1b`, `8b` (random weights, made on the
first use) and `smollm2-135m`. A table at the end has the median of --rounds.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from exo_lite.domain.ids import Epoch
from exo_lite.domain.load_options import LoadRequest
from exo_lite.domain.request import Sampling
from exo_lite.domain.step import PREFILL_CHUNK_TOKENS, Admission, SequenceChunk, Step, StepMessage
from exo_lite.engine.torch_c.loaded_shard import TorchShard
from exo_lite.pipeline.stage import Stage
from tests.bench.contender import DECODE_PROMPT_TOKENS, Contender, Loaded, Task, serve
from tests.bench.loading import WholeModel, decode_weight_bytes, load_whole
from tests.bench.models import MODEL_NAMES, MODELS_DIR, model_folder

CONTEXT_LENGTH = 1024
NUM_SLOTS = 32
BANDWIDTH_BYTES = 1 << 30
BANDWIDTH_REPEATS = 5


@dataclass(frozen=True, slots=True)
class EngineCase:
    """One engine to measure. dtype `auto` is the checkpoint's own."""

    model: str
    quant: str = "none"
    threads: int = 2
    dtype: str = "auto"

    def __str__(self) -> str:
        dtype = "" if self.dtype == "auto" else f" {self.dtype}"
        return f"exo_lite {self.model} {self.quant}{dtype}, threads {self.threads}"


def start_engine(case: EngineCase, models_dir: Path) -> Contender:
    """The case's engine in a process of its own, loaded."""
    flags = ["--dtype", case.dtype, "--threads", str(case.threads), "--quant", case.quant]
    where = ["--serve", "--model", case.model, "--models-dir", str(models_dir.resolve())]
    return Contender(str(case), [sys.executable, "-m", "tests.bench.engine", *where, *flags])


def read_bandwidth() -> float:
    """Bytes/s at which this process's threads read memory: the best of several sums over a tensor beyond all caches."""
    values = torch.ones(BANDWIDTH_BYTES // 8, dtype=torch.int64)
    return max(BANDWIDTH_BYTES / _seconds(values.sum) for _ in range(BANDWIDTH_REPEATS))


def _seconds(work: Callable[[], object]) -> float:
    began_s = time.perf_counter()
    work()
    return time.perf_counter() - began_s


class Engine:
    """A stage with all layers, and its sequences."""

    def __init__(self, model: WholeModel) -> None:
        self._vocab_size = model.shard.spec.vocab_size
        self._stage = Stage(TorchShard(model.shard, model.kv_cache))
        self._numbers = random.Random(0)
        self._num_steps = 0

    def measure(self, task: Task) -> float:
        """Tokens/s, or bytes/s."""
        match task.kind:
            case "prefill":
                return task.num_tokens / _seconds(lambda: self.prefill(0, task.num_tokens))
            case "decode":
                return self._decode(task.num_tokens, task.batch)
            case "bandwidth":
                return read_bandwidth()

    def prefill(self, sequence_index: int, num_tokens: int) -> int:
        """A new sequence of random tokens, in chunks as the scheduler cuts them. Returns the next token."""
        prompt = tuple(self._numbers.randrange(self._vocab_size) for _ in range(num_tokens))
        tokens: dict[int, int] = {}
        for start in range(0, num_tokens, PREFILL_CHUNK_TOKENS):
            part = prompt[start : start + PREFILL_CHUNK_TOKENS]
            is_last = start + len(part) == num_tokens
            chunk = SequenceChunk(sequence_index, start, len(part), part, 0 if is_last else None)
            admissions = () if start else (Admission(sequence_index, Sampling(temperature=0.0)),)
            tokens = self._step((chunk,), admissions)
        return tokens[sequence_index]

    def _decode(self, num_tokens: int, batch: int) -> float:
        tokens = {sequence: self.prefill(sequence, DECODE_PROMPT_TOKENS) for sequence in range(batch)}
        tokens = self._decode_step(tokens, 1)  # this batch's first step may choose its kernels
        began_s = time.perf_counter()
        for index in range(2, num_tokens + 2):
            tokens = self._decode_step(tokens, index)
        return batch * num_tokens / (time.perf_counter() - began_s)

    def _decode_step(self, tokens: dict[int, int], index: int) -> dict[int, int]:
        position = DECODE_PROMPT_TOKENS + index - 1
        return self._step(
            tuple(SequenceChunk(sequence, position, 1, (one,), index) for sequence, one in tokens.items())
        )

    def _step(self, chunks: tuple[SequenceChunk, ...], admissions: tuple[Admission, ...] = ()) -> dict[int, int]:
        self._num_steps += 1
        output = self._stage.compute(StepMessage(Step(Epoch(1), self._num_steps, chunks, admissions)))
        return {sampled.sequence_index: sampled.token_id for sampled in output.tokens}


def _load_engine(arguments: argparse.Namespace) -> tuple[Loaded, Callable[[Task], float]]:
    torch.set_num_threads(arguments.threads[0])
    dtype = None if arguments.dtype == "auto" else arguments.dtype
    request = LoadRequest(dtype, arguments.quant[0], CONTEXT_LENGTH, NUM_SLOTS)
    model = load_whole(model_folder(arguments.model, arguments.models_dir), request)
    loaded = Loaded(f"{model.options.dtype}, quant {model.options.quant}", decode_weight_bytes(model.shard))
    return loaded, Engine(model).measure


def weight_share(loaded: Loaded, tokens_per_second: float, batch: int, bandwidth: float) -> float:
    """Of the read bandwidth (bytes/s), what reading the weights once a step takes."""
    return loaded.weight_bytes * tokens_per_second / batch / bandwidth


def _measured(contender: Contender, tasks: list[Task], rounds: int) -> Iterator[tuple[Task, float]]:
    """The median of each task, all of them once a round."""
    results: dict[Task, list[float]] = {task: [] for task in tasks}
    for number in range(1, rounds + 1):
        for task in tasks:
            results[task].append(contender.measure(task))
            scale, unit = (1e9, "GB/s") if task.kind == "bandwidth" else (1.0, "tokens/s")
            print(f"{contender.name}, round {number}: {task}: {results[task][-1] / scale:.1f} {unit}", flush=True)
    for task, values in results.items():
        yield task, statistics.median(values)


def _tasks(arguments: argparse.Namespace) -> list[Task]:
    prefills = [Task("prefill", num_tokens) for num_tokens in arguments.prompt_tokens]
    return [Task("bandwidth"), *prefills, *(Task("decode", arguments.tokens, batch) for batch in arguments.batch)]


def report(contender: Contender, results: dict[Task, float]) -> list[str]:
    """Rows of the table: what, tokens/s, share of the bandwidth."""
    bandwidth = results[Task("bandwidth")]
    lines = [f"| {contender.name} | read bandwidth | {bandwidth / 1e9:.1f} GB/s | |"]
    for task, rate in results.items():
        if task.kind == "bandwidth":
            continue
        is_decode = task.kind == "decode"
        share = f"{weight_share(contender.loaded, rate, task.batch, bandwidth):.0%}" if is_decode else ""
        lines.append(f"| {contender.name} | {task} | {rate:.1f} tokens/s | {share} |")
    return lines


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=MODEL_NAMES, default="1b")
    parser.add_argument("--models-dir", type=Path, default=MODELS_DIR, help="default: .cache/bench-models")
    parser.add_argument(
        "--quant", nargs="+", choices=["none", "int8", "int4", "w8a8"], default=["none", "int8", "int4"]
    )
    parser.add_argument("--dtype", choices=["auto", "float32", "bfloat16", "float16"], default="auto")
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--prompt-tokens", nargs="+", type=int, default=[128, 512])
    parser.add_argument("--batch", nargs="+", type=int, default=[1, 2, 4, 8, 16, 32], help=f"at most {NUM_SLOTS}")
    parser.add_argument("--tokens", type=int, default=32, help="decoded by each sequence")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    arguments = _arguments()
    if arguments.serve:
        serve(lambda: _load_engine(arguments))
        return
    rows: list[str] = []
    for quant in arguments.quant:
        for threads in arguments.threads:
            case = EngineCase(arguments.model, quant, threads, arguments.dtype)
            with start_engine(case, arguments.models_dir) as contender:
                rows += report(contender, dict(_measured(contender, _tasks(arguments), arguments.rounds)))
    print("\n| engine | what | speed | share of the read bandwidth |\n|---|---|---|---|", *rows, sep="\n")


if __name__ == "__main__":
    main()
