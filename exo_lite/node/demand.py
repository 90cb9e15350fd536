"""The demand for models: requests wait together for a model that has to be loaded first."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from exo_lite.domain.cluster_state import ClusterState
from exo_lite.domain.errors import NotReady
from exo_lite.domain.ids import ModelId
from exo_lite.domain.keep_alive import DEFAULT_KEEP_ALIVE_S
from exo_lite.domain.load_options import LoadRequest
from exo_lite.domain.placement import Instance
from exo_lite.node.cluster import Cluster

PATIENCE_S = 120.0
"""How long a request waits for its model before the client is told to come again."""

Place = Callable[[ModelId, LoadRequest], Awaitable[Instance]]


class Demand:
    """The demand of the requests that entered at one node: they load models that are missing."""

    def __init__(
        self,
        cluster: Cluster,
        place: Place,
        *,
        keep_alive_s: float = DEFAULT_KEEP_ALIVE_S,
        patience_s: float = PATIENCE_S,
    ) -> None:
        self._cluster = cluster
        self._place = place
        self._keep_alive_s = keep_alive_s
        self._patience_s = patience_s

    async def ready(self, model_id: ModelId, keep_alive_s: float | None = None) -> Instance:
        """The model, once it is ready; it is loaded if need be, once for all that wait.

        Raises NotReady after a while or where its loading fails, and what placing it raises.
        """
        try:
            async with asyncio.timeout(self._patience_s):
                asked = await self._ask(model_id, keep_alive_s)
                return await self._cluster.wait_for(lambda state: _ready(state, asked))
        except TimeoutError as error:
            raise NotReady(f"{self._progress(model_id)} after {self._patience_s:.0f} s: try again later") from error

    async def _ask(self, model_id: ModelId, keep_alive_s: float | None) -> Instance:
        """The model as it is placed, or is from now on."""
        instance = self._cluster.state.instance_of(model_id)
        is_there = instance is not None and instance.state != "failed"
        if instance is not None and is_there and _is_kept_as_asked(instance, keep_alive_s):
            return instance
        kept_s = self._keep_alive_s if keep_alive_s is None else keep_alive_s
        return await self._place(model_id, LoadRequest(keep_alive_s=kept_s, is_on_demand=True))

    def _progress(self, model_id: ModelId) -> str:
        instance = self._cluster.state.instance_of(model_id)
        if instance is None:
            return f"{model_id} is not placed yet"
        statuses = {part.shard: self._cluster.state.shard_status(instance, part) for part in instance.assignments}
        num_loaded = sum(shard.num_layers * status.report.progress for shard, status in statuses.items() if status)
        return f"{model_id} is {instance.state}, {num_loaded / instance.n_layers:.0%} of its layers are in memory,"


def _ready(state: ClusterState, asked: Instance) -> Instance | None:
    """The instance, once it is ready. Raises NotReady where it fails or is unloaded meanwhile."""
    current = state.instance_of(asked.model_id)
    if current is None and state.epoch > asked.epoch:
        raise NotReady(f"{asked.model_id} was unloaded before it was ready: try again")
    if current is not None and current.state == "failed" and current.epoch >= asked.epoch:
        raise NotReady(current.condition)
    return current if current is not None and current.state == "ready" else None


def _is_kept_as_asked(instance: Instance, keep_alive_s: float | None) -> bool:
    """A request does not unpin what somebody pinned."""
    return keep_alive_s is None or instance.is_pinned or instance.keep_alive_s == keep_alive_s
