"""Traces: where the time of a request's steps went. They hold neither tokens nor text."""

from __future__ import annotations

from dataclasses import dataclass

from exo_lite.domain.placement import Instance
from exo_lite.domain.step import StageTiming


@dataclass(frozen=True, slots=True)
class StepTrace:
    """One traversal of the pipeline, from the driver's sending to the arrival of its result."""

    start_ms: float
    """Milliseconds since the request came to the first stage."""
    duration_ms: float
    num_tokens: int
    """Tokens of all the requests that shared the step."""
    stages: tuple[StageTiming, ...]

    @property
    def wire_ms(self) -> float:
        """Time that no stage accounts for: gRPC, the network, waking up. Derived, since clocks do not agree."""
        known_ms = sum(stage.queue_ms + stage.compute_ms + stage.serialize_ms for stage in self.stages)
        return max(0.0, self.duration_ms - known_ms)


@dataclass(frozen=True, slots=True)
class RequestTrace:
    """A request's last steps, the oldest first."""

    age_s: float
    """Milliseconds since the request came to the first stage."""
    steps: tuple[StepTrace, ...]


@dataclass(frozen=True, slots=True)
class TraceReport:
    """The traces of an instance's last requests, the newest first."""

    instance: Instance
    requests: tuple[RequestTrace, ...] = ()
    reason: str | None = None
    """Why its driver could not tell."""
