"""Where the time of a request's steps went. Neither tokens nor text are in it."""

from __future__ import annotations

from dataclasses import dataclass

from exo_lite.domain.placement import Instance
from exo_lite.domain.step import StageTiming


@dataclass(frozen=True, slots=True)
class StepTrace:
    """One traversal of the pipeline, from the head's sending to the arrival of its result."""

    start_ms: float
    """Since the request came to the head."""
    duration_ms: float
    num_tokens: int
    """Of all the requests that shared the step."""
    stages: tuple[StageTiming, ...]

    @property
    def wire_ms(self) -> float:
        """What no stage accounts for: gRPC, the network, waking up. Derived, since machines' clocks do not agree."""
        known_ms = sum(stage.queue_ms + stage.compute_ms + stage.serialize_ms for stage in self.stages)
        return max(0.0, self.duration_ms - known_ms)


@dataclass(frozen=True, slots=True)
class RequestTrace:
    """A request's last steps, the oldest first."""

    age_s: float
    """Since the request came to the head."""
    steps: tuple[StepTrace, ...]


@dataclass(frozen=True, slots=True)
class TraceReport:
    """What is known of an instance's last requests, the newest first."""

    instance: Instance
    requests: tuple[RequestTrace, ...] = ()
    reason: str | None = None
    """Why its head could not tell."""
