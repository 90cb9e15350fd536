"""This node's engine: tried once, and told to the others."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace

from exo_lite.domain.cluster_events import SelfChanged
from exo_lite.domain.engine import Detected
from exo_lite.node.cluster import Cluster

log = logging.getLogger(__name__)

TryEngine = Callable[[], Awaitable[Detected]]


class OwnEngine:
    """Runs as one task beside everything else, since kernels may have to be compiled: no start waits for it."""

    def __init__(self, cluster: Cluster, try_engine: TryEngine | None) -> None:
        """`try_engine`: None where there is nothing to try, as in a simulation."""
        self._cluster = cluster
        self._try_engine = try_engine

    async def run(self) -> None:
        """Find out which numbers it computes. Raises StartupError."""
        if self._try_engine is None or self._cluster.state.self_status.engine.numerics is not None:
            return
        found = await self._try_engine()
        old = self._cluster.state.self_status
        engine = replace(old.engine, numerics=found.numerics)
        self._cluster.apply(SelfChanged(replace(old, sequence=old.sequence + 1, engine=engine)))
        log.info("the engine is tried", extra={"numerics": found.numerics})
