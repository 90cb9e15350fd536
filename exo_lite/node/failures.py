"""The leader's memory of failures: what to leave alone for a while, and when to try again. No I/O."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Collection
from dataclasses import dataclass

from exo_lite.domain.cluster_state import ClusterState
from exo_lite.domain.errors import WorkerCannotStart
from exo_lite.domain.ids import ModelId, NodeId
from exo_lite.domain.links import Link, broken_links

MAX_WORKER_FAILURES = 3
"""Within FAILURE_WINDOW_S, after which an instance is given up."""
FAILURE_WINDOW_S = 120.0
SAME_FAILURE_S = 5.0
"""A worker that hangs or dies is told of by its neighbours before its own daemon knows, and breaks the next try too."""
DOUBTFUL_FOR_S = 60.0
"""A link whose stream broke off though both nodes live."""
RETRY_AFTER_S = 20.0
"""The first time that a pinned model is tried again with nothing changed; then after twice as long each time."""
MAX_RETRY_AFTER_S = 300.0


@dataclass(frozen=True, slots=True)
class _GivenUp:
    """How things were when a model was given up."""

    living: frozenset[NodeId]
    broken: frozenset[Link]
    retry_at_s: float


class Failures:
    """The failures of all models, as one leader remembers them."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._times: dict[ModelId, deque[float]] = defaultdict(deque)
        self._last: dict[ModelId, tuple[str, str]] = {}
        self._given_up: dict[ModelId, _GivenUp] = {}
        self._num_retries: dict[ModelId, int] = defaultdict(int)
        self._doubtful_until_s: dict[Link, float] = {}

    @property
    def doubtful(self) -> frozenset[Link]:
        """Links that failed lately."""
        now_s = self._clock()
        self._doubtful_until_s = {pair: until for pair, until in self._doubtful_until_s.items() if until > now_s}
        return frozenset(self._doubtful_until_s)

    def doubt(self, pair: Link) -> None:
        self._doubtful_until_s[pair] = self._clock() + DOUBTFUL_FOR_S

    def is_too_often(self, model_id: ModelId, reason: str, cause: str) -> bool:
        """Count one more failure. Those that come together are one.

        A worker that cannot start, and says the same as the last time, is not started a third time.
        """
        last, self._last[model_id] = self._last.get(model_id), (reason, cause)
        if cause == WorkerCannotStart.code and last == (reason, cause):
            return True
        times, now_s = self._times[model_id], self._clock()
        if not times or now_s - times[-1] > SAME_FAILURE_S:
            times.append(now_s)
        while times[0] < now_s - FAILURE_WINDOW_S:
            times.popleft()
        return len(times) >= MAX_WORKER_FAILURES

    def is_over(self, model_id: ModelId) -> None:
        """The model is ready."""
        self._times.pop(model_id, None)
        self._last.pop(model_id, None)
        self._given_up.pop(model_id, None)
        self._num_retries.pop(model_id, None)

    def give_up(self, model_id: ModelId, state: ClusterState, *, is_permanent: bool) -> None:
        """The same try again is worth it later, unless the failure is the model's own."""
        pause_s = min(RETRY_AFTER_S * 2 ** self._num_retries[model_id], MAX_RETRY_AFTER_S)
        self._num_retries[model_id] += 1
        retry_at_s = float("inf") if is_permanent else self._clock() + pause_s
        self._given_up[model_id] = _GivenUp(frozenset(state.living), broken_links(state), retry_at_s)

    def retry_reason(self, model_id: ModelId, state: ClusterState, *, is_pinned: bool) -> str | None:
        """Why a model that failed gets another try now; None where it does not."""
        given_up = self._given_up.get(model_id)
        if given_up is None or given_up.living != frozenset(state.living):
            return "the nodes changed"
        if given_up.broken - broken_links(state):
            return f"{_count(given_up.broken - broken_links(state))} again"
        if is_pinned and self._clock() >= given_up.retry_at_s:
            return "it is pinned, and is tried again after a while"
        return None


def _count(links: Collection[Link]) -> str:
    return "a link works" if len(links) == 1 else f"{len(links)} links work"
