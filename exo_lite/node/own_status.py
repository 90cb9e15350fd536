"""This node's own status, kept true: what its workers hold, what it offers, which models it has, who asks for them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import replace

from exo_lite.domain.cluster_events import SelfChanged
from exo_lite.domain.ids import ModelId
from exo_lite.domain.node import MemoryUse, NodeStatus, ShardStatus
from exo_lite.domain.units import format_bytes
from exo_lite.node.cluster import Cluster
from exo_lite.node.event_log import EventLog
from exo_lite.node.model_files import ModelFiles
from exo_lite.node.offer import Offer
from exo_lite.node.request_counts import RequestCounts
from exo_lite.node.shards import ShardHost
from exo_lite.node.supervisor import Supervisor

LOOK_EVERY_S = 0.5


class OwnStatus:
    """Runs as one task, which looks twice a second and whenever a worker changes."""

    def __init__(
        self,
        cluster: Cluster,
        events: EventLog,
        supervisor: Supervisor,
        *,
        shards: ShardHost,
        counts: RequestCounts,
        model_files: ModelFiles,
        read_offer: Callable[[], Offer],
    ) -> None:
        self._cluster = cluster
        self._events = events
        self._supervisor = supervisor
        self._shards = shards
        self._counts = counts
        self._model_files = model_files
        self._read_offer = read_offer
        self._models: Mapping[ModelId, str] = {}
        self._offer_warning: str | None = None
        self._looking = asyncio.Lock()

    async def run(self) -> None:
        """Run until cancelled."""
        while True:
            self._shards.changed.clear()
            await self.look()
            try:
                async with asyncio.timeout(LOOK_EVERY_S):
                    await self._shards.changed.wait()
            except TimeoutError:
                continue

    async def look(self) -> None:
        """Make the status true now."""
        async with self._looking:  # an earlier look must not end after a later one
            with self._supervisor.containing("reading the models folder"):  # what it had last is still true
                self._models = await self._model_files.look()
            offered = await asyncio.to_thread(self._read_offer)
            self._note_offer(offered)
            old = self._cluster.state.self_status
            new = replace(
                old,
                sequence=old.sequence + 1,
                device=replace(old.device, threads=offered.threads),
                memory=memory_use(offered.memory_bytes, self._shards.statuses),
                shards=self._shards.statuses,
                models=self._models,
                num_requests=self._counts.num_requests,
            )
            self._cluster.apply(SelfChanged(new))

    def _note_offer(self, offered: Offer) -> None:
        """Tell of limits that somebody changed, and of memory that was asked for in vain."""
        old = self._cluster.state.self_status
        before = Offer(old.memory.limit_bytes, old.device.threads, self._offer_warning)
        if replace(offered, warning=None) != replace(before, warning=None):
            text = f"{old.identity.name} offers {format_bytes(offered.memory_bytes)} and {offered.threads} threads now"
            self._events.add("offer_changed", f"{text}, because its limits were changed")
        if offered.warning is not None and offered.warning != before.warning:
            self._events.add("memory_cap_too_high", offered.warning, "give less --memory, or raise the limit")
        self._offer_warning = offered.warning


def memory_use(limit_bytes: int, shards: tuple[ShardStatus, ...]) -> MemoryUse:
    """Sum up the memory that the workers that are not lost take of the offer."""
    holding = [shard for shard in shards if shard.state != "lost"]
    return MemoryUse(
        limit_bytes,
        weights_bytes=sum(shard.weight_bytes for shard in holding),
        kv_cache_bytes=sum(shard.kv_cache_bytes for shard in holding),
        working_bytes=sum(shard.working_bytes for shard in holding),
    )


def is_urgent(before: NodeStatus, after: NodeStatus) -> bool:
    """Say whether the leader waits for a change: it is told at once, and not with the next heartbeat."""
    return _shard_states(before) != _shard_states(after) or before.num_requests.keys() != after.num_requests.keys()


def _shard_states(status: NodeStatus) -> list[object]:
    return [(shard.shard, shard.instance_id, shard.state, shard.worker_port, shard.failure) for shard in status.shards]
