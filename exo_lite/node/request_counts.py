"""How many requests that entered at this node want each model: its status says so."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace

from exo_lite.domain.cluster_events import SelfChanged
from exo_lite.domain.ids import ModelId
from exo_lite.node.cluster import Cluster


class RequestCounts:
    """A model's first and last request are told at once: the leader evicts no model that somebody has asked for."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._num_requests: Counter[ModelId] = Counter()

    @property
    def num_requests(self) -> Mapping[ModelId, int]:
        """The number of requests by model, never 0."""
        return dict(self._num_requests)

    @contextmanager
    def hold(self, model_id: ModelId) -> Iterator[None]:
        """A request for a model is under way: until it ends, the model is not evicted as idle."""
        self._num_requests[model_id] += 1
        if self._num_requests[model_id] == 1:
            self._tell()
        try:
            yield
        finally:
            self._num_requests[model_id] -= 1
            if not self._num_requests[model_id]:
                del self._num_requests[model_id]
                self._tell()

    def _tell(self) -> None:
        old = self._cluster.state.self_status
        self._cluster.apply(SelfChanged(replace(old, sequence=old.sequence + 1, num_requests=self.num_requests)))
