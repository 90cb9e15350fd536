"""The traces of a driver's last requests, in bounded memory."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from exo_lite.domain.ids import RequestId
from exo_lite.domain.step import StageTiming
from exo_lite.domain.trace import RequestTrace, StepTrace

MAX_TRACED_REQUESTS = 64
MAX_TRACED_STEPS = 64
"""The number of each request's last steps that are kept."""


@dataclass(frozen=True, slots=True)
class _Traced:
    arrived_at_s: float
    steps: deque[StepTrace] = field(default_factory=lambda: deque(maxlen=MAX_TRACED_STEPS))


class TraceRing:
    """Forgets the request that came first when one too many comes."""

    def __init__(self) -> None:
        self._requests: dict[RequestId, _Traced] = {}

    def begin(self, request_id: RequestId, now_s: float) -> None:
        self._requests.pop(request_id, None)
        self._requests[request_id] = _Traced(now_s)
        if len(self._requests) > MAX_TRACED_REQUESTS:
            del self._requests[next(iter(self._requests))]

    def add(
        self, request_id: RequestId, sent_at_s: float, now_s: float, num_tokens: int, stages: tuple[StageTiming, ...]
    ) -> None:
        """A step of a request; those that were forgotten or never begun are none of ours."""
        traced = self._requests.get(request_id)
        if traced is not None:
            start_ms, duration_ms = (sent_at_s - traced.arrived_at_s) * 1000, (now_s - sent_at_s) * 1000
            traced.steps.append(StepTrace(start_ms, duration_ms, num_tokens, stages))

    def traces(self, now_s: float) -> tuple[RequestTrace, ...]:
        """Return the traces of every request with at least one step, the newest first."""
        newest_first = reversed(self._requests.values())
        return tuple(RequestTrace(now_s - one.arrived_at_s, tuple(one.steps)) for one in newest_first if one.steps)
