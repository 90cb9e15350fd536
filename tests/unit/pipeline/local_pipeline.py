"""A scheduler with real stages over a tiny model behind it, in one thread: steps go through as they are sent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file

from exo_lite.checkpoint.tensor_names import expected_tensors
from exo_lite.domain.ids import Epoch, ModelId, RequestId
from exo_lite.domain.load_options import LoadOptions
from exo_lite.domain.model_spec import ModelSpec, Quantization
from exo_lite.domain.request import GenerateRequest, Token
from exo_lite.domain.shard import Shard
from exo_lite.domain.step import StageTiming, Step, StepMessage, StepResult
from exo_lite.engine.engine import Engine
from exo_lite.engine.table import TORCH_C
from exo_lite.pipeline.scheduler import Features, Scheduler
from exo_lite.pipeline.stage import Stage, StageOutput

CONTEXT_LENGTH = 768
SPEC = ModelSpec(
    model_type="llama",
    num_hidden_layers=3,
    hidden_size=32,
    intermediate_size=64,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=16,
    vocab_size=97,
    max_position_embeddings=CONTEXT_LENGTH,
    dtype="float32",
)
NUM_SLOTS = 4


def write_checkpoint(folder: Path) -> None:
    """Random weights of SPEC."""
    generator = torch.Generator().manual_seed(3)
    whole = Shard(ModelId("tiny"), 0, SPEC.n_layers - 1, SPEC.n_layers)
    tensors = {
        name: torch.randn(shape, generator=generator) * 0.3 + (1.0 if "norm" in name else 0.0)
        for name, shape in expected_tensors(SPEC, whole).items()
    }
    save_file(tensors, folder / "model.safetensors")


@dataclass(frozen=True)
class LocalPipeline:
    """Requests in, whole answers out."""

    scheduler: Scheduler
    stages: Sequence[Stage]

    def answer(self, *requests: GenerateRequest) -> list[list[Token]]:
        """All at once, each to its end."""
        for request in requests:
            self.scheduler.submit(request)
        answers: dict[RequestId, list[Token]] = {request.request_id: [] for request in requests}
        under_way: list[Step] = []
        while (step := self.scheduler.next_step()) is not None or under_way:
            if step is not None:
                under_way.append(step)
                continue
            for request_id, token in self.scheduler.complete(self._computed(under_way.pop(0))):
                answers[request_id].append(token)
        return list(answers.values())

    def _computed(self, step: Step) -> StepResult:
        output, passed = StageOutput(), StepMessage(step)
        for stage in self.stages:
            output = stage.compute(passed)
            bare = tuple(chunk._replace(token_ids=()) for chunk in step.chunks)
            passed = StepMessage(step._replace(chunks=bare), output.hidden_states)
        timings = (StageTiming(0.0, 1.0 + 0.1 * step.num_tokens),)
        return StepResult(step.epoch, step.step_id, output.tokens, timings, scores=output.scores)


def open_pipeline(
    folder: Path, quant: Quantization, features: Features, *, engines: Sequence[Engine] = (TORCH_C, TORCH_C)
) -> LocalPipeline:
    """Two stages, each of its engine."""
    options = LoadOptions("float32", quant, CONTEXT_LENGTH, NUM_SLOTS)
    stages = []
    for engine, (start, end) in zip(engines, ((0, 0), (1, 2)), strict=True):
        part = Shard(ModelId("tiny"), start, end, SPEC.n_layers)
        engine.prepare(1)
        stages.append(Stage(engine.load(folder, SPEC, part, options, device="cpu", on_progress=lambda _: None)))
    scheduler = Scheduler(
        epoch=Epoch(1),
        num_stages=len(stages),
        num_sequences=NUM_SLOTS,
        context_length=CONTEXT_LENGTH,
        vocab_size=SPEC.vocab_size,
        features=features,
    )
    return LocalPipeline(scheduler, stages)
