"""Requests, schedulers and results for the tests of scheduling."""

from __future__ import annotations

from exo_lite.domain.ids import Epoch, ModelId, RequestId
from exo_lite.domain.request import AnswerRequest, GenerateRequest, Sampling
from exo_lite.domain.step import SampledToken, StageTiming, Step, StepResult
from exo_lite.pipeline.scheduler import Features, Scheduler

STOP = 9

VOCAB_SIZE = 1000

EXACT = Features()


def request(name: str, num_prompt: int = 3, max_tokens: int = 4, epoch: int = 1) -> GenerateRequest:
    return GenerateRequest(
        request_id=RequestId(name),
        model_id=ModelId("m"),
        epoch=Epoch(epoch),
        attempt=0,
        asked=AnswerRequest(
            token_ids=tuple(range(100, 100 + num_prompt)),
            max_tokens=max_tokens,
            sampling=Sampling(seed=1),
            stop_token_ids=frozenset({STOP}),
        ),
    )


def scheduler(
    num_stages: int = 2,
    num_sequences: int = 4,
    context_length: int = 2048,
    max_waiting: int = 8,
    features: Features = EXACT,
) -> Scheduler:
    return Scheduler(
        epoch=Epoch(1),
        num_stages=num_stages,
        num_sequences=num_sequences,
        context_length=context_length,
        vocab_size=VOCAB_SIZE,
        max_waiting=max_waiting,
        features=features,
    )


def result(step: Step, token_id: int = 5) -> StepResult:
    sampled = tuple(
        SampledToken(chunk.sequence_index, token_id) for chunk in step.chunks if chunk.sample_index is not None
    )
    return StepResult(step.epoch, step.step_id, sampled, ())


def next_step(subject: Scheduler) -> Step:
    step = subject.next_step()
    assert step is not None
    return step


def complete_after(subject: Scheduler, step: Step, compute_ms: float) -> None:
    timings = (StageTiming(0.0, 1.0), StageTiming(0.0, compute_ms))
    came_back, under_way = result(step)._replace(timings=timings), subject.step_under_way(step.step_id)
    subject.complete(came_back)
    subject.learn(under_way, came_back, compute_ms + 1.0)
