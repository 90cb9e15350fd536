"""What a split costs one stream before there is any message: the halves of a model, computed in turns by two processes.

    python -m tests.bench.split_floor [--model 1b] [--quant int8] [--steps 64] [--rounds 6]

A thread each, and nothing between them but a pipe; in turn with the whole model in one process. Prints what a decode
step computes in each way: its median, of all rounds. What the halves take more, no transport can give back.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import torch

from exo_lite.catalog.hf_config import spec_from_config
from exo_lite.checkpoint.json_files import read_json_object
from exo_lite.domain.ids import Epoch, ModelId
from exo_lite.domain.load_options import LoadRequest
from exo_lite.domain.request import Sampling
from exo_lite.domain.shard import Shard
from exo_lite.domain.step import Admission, SequenceChunk, Step, StepMessage
from exo_lite.engine.table import TORCH_C
from exo_lite.pipeline.stage import Stage, StageOutput
from exo_lite.worker.awake_cores import AwakeCores
from tests.bench.models import MODEL_NAMES, MODELS_DIR, model_folder

CONTEXT_LENGTH = 1024
WARM_UP_STEPS = 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=MODEL_NAMES, default="1b")
    parser.add_argument("--models-dir", type=Path, default=MODELS_DIR)
    parser.add_argument("--quant", default="int8")
    parser.add_argument("--steps", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=6)
    arguments = parser.parse_args()
    folder = model_folder(arguments.model, arguments.models_dir)
    cores = AwakeCores()
    cores.hold()  # as workers do
    context = multiprocessing.get_context("spawn")
    forth, back = context.Pipe()
    ways: dict[str, Connection] = {}
    for name, part, pipe in (("whole", (0, 2), None), ("front", (0, 1), forth), ("back", (1, 2), back)):
        here, there = context.Pipe()
        process = context.Process(target=_compute, args=(folder, arguments.quant, part, pipe, there), daemon=True)
        process.start()
        ways[name] = here
    for pipe in ways.values():
        pipe.recv()  # loaded
    values: dict[str, list[float]] = {"one process": [], "two in turns": []}
    for _ in range(arguments.rounds):
        for way, names in (("one process", ["whole"]), ("two in turns", ["front", "back"])):
            for name in names:
                ways[name].send(arguments.steps + WARM_UP_STEPS)
            parts = [ways[name].recv()[WARM_UP_STEPS:] for name in names]
            values[way] += [sum(step_ms) for step_ms in zip(*parts, strict=True)]
    for pipe in ways.values():
        pipe.send(0)
    cores.close()
    whole_ms, halves_ms = (statistics.median(one) for one in values.values())
    print(f"{arguments.model} {arguments.quant}, a decode step: {whole_ms:.2f} ms computed by one process, ", end="")
    print(f"{halves_ms:.2f} ms by two in turns; {whole_ms / halves_ms:.3f} of the speed")


def _compute(folder: Path, quant: str, part: tuple[int, int], other: Connection | None, asked: Connection) -> None:
    """For each number of steps asked for, answers with how many ms each took to compute; until that is 0."""
    torch.set_num_threads(1)
    spec = spec_from_config(read_json_object(folder / "config.json"))
    first, end = (spec.n_layers * one // 2 for one in part)
    options = LoadRequest(None, quant, CONTEXT_LENGTH, 1).resolve(spec)  # type: ignore[arg-type]
    shard = Shard(ModelId("m"), first, end - 1, spec.n_layers)
    stage = Stage(TORCH_C.load(folder, spec, shard, options, device="cpu", on_progress=lambda _: None))
    asked.send("loaded")
    while num_steps := asked.recv():
        times_ms: list[float] = []
        compute = _timed(stage, times_ms)
        for position in range(num_steps):
            message = _decode_step(position) if shard.is_first else other.recv()  # type: ignore[union-attr]
            output = compute(message)
            if other is not None:
                other.send(StepMessage(message.step, output.hidden_states))
            if shard.is_first and other is not None:
                other.recv()  # the token
        asked.send(times_ms)


def _timed(stage: Stage, times_ms: list[float]) -> Callable[[StepMessage], StageOutput]:
    def compute(message: StepMessage) -> StageOutput:
        began_s = time.perf_counter()
        output = stage.compute(message)
        times_ms.append((time.perf_counter() - began_s) * 1000)
        return output

    return compute


def _decode_step(position: int) -> StepMessage:
    admissions = (Admission(0, Sampling(temperature=0.0)),) if position == 0 else ()
    return StepMessage(Step(Epoch(1), position, (SequenceChunk(0, position, 1, (1,), position),), admissions))


if __name__ == "__main__":
    main()
