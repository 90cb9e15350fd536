"""GET /api/v1/models/{id}/traces: where the time of a model's last steps went, step by step and as medians."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from exo_lite.domain.step import StageTiming
from exo_lite.domain.trace import StepTrace, TraceReport


def traces_document(report: TraceReport) -> dict[str, object]:
    """JSON types only. A step that ended with a stage's failure may know fewer stages than there are."""
    instance, requests = report.instance, report.requests
    names = [assignment.name for assignment in instance.assignments]
    return {
        "id": instance.model_id,
        "stages": [
            {"node": one.name, "start_layer": one.shard.start_layer, "end_layer": one.shard.end_layer}
            for one in instance.assignments
        ],
        "summary": _summary(names, [step for trace in requests for step in trace.steps]),
        "requests": [{"age_s": trace.age_s, "steps": [_step(step) for step in trace.steps]} for trace in requests],
        "reason": report.reason,
    }


def _step(step: StepTrace) -> dict[str, object]:
    return {
        "start_ms": step.start_ms,
        "duration_ms": step.duration_ms,
        "wire_ms": step.wire_ms,
        "num_tokens": step.num_tokens,
        "stages": [_stage(stage) for stage in step.stages],
    }


def _stage(timing: StageTiming) -> dict[str, object]:
    return {"queue_ms": timing.queue_ms, "compute_ms": timing.compute_ms, "serialize_ms": timing.serialize_ms}


def _summary(names: Sequence[str], steps: Sequence[StepTrace]) -> dict[str, object] | None:
    """Medians over the steps that went through every stage and brought a token; None without any."""
    whole = [step for step in steps if step.num_tokens and len(step.stages) == len(names)]
    if not whole:
        return None
    stages = [_median_stage([step.stages[index] for step in whole]) for index in range(len(names))]
    step_ms, wire_ms = median(step.duration_ms for step in whole), median(step.wire_ms for step in whole)
    return {
        "num_steps": len(whole),
        "step_ms": step_ms,
        "wire_ms": wire_ms,
        "stages": [_stage(stage) for stage in stages],
        "slowest": _slowest(names, stages, wire_ms, step_ms),
    }


def _median_stage(timings: Sequence[StageTiming]) -> StageTiming:
    return StageTiming(
        median(one.queue_ms for one in timings),
        median(one.compute_ms for one in timings),
        median(one.serialize_ms for one in timings),
    )


def _slowest(names: Sequence[str], stages: Sequence[StageTiming], wire_ms: float, step_ms: float) -> str:
    """The greatest part of a step in words."""
    parts = [("the wire between the nodes", wire_ms)]
    for name, stage in zip(names, stages, strict=True):
        parts.append((f"computing on {name}", stage.compute_ms))
        parts.append((f"waiting on {name}", stage.queue_ms))
        parts.append((f"serializing on {name}", stage.serialize_ms))
    what, took_ms = max(parts, key=lambda part: part[1])
    return f"{what} takes {took_ms:.1f} ms of {step_ms:.1f} ms"
