"""The search for a model's files: nodes tell of theirs twice a second, and look first when a model is ordered."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

from exo_lite.domain.cluster_state import Member
from exo_lite.domain.errors import ExoLiteError
from exo_lite.domain.ids import ModelId
from exo_lite.node.cluster import Cluster
from exo_lite.node.heartbeats import Heartbeats
from exo_lite.node.peers import Peers

LOOK_TIMEOUT_S = 2.0


async def _look_nowhere() -> None:
    """A node that is not there to look."""


class ModelSearch:
    """Brings the state up to date with the models folders of all living nodes. `look` does so for this one's."""

    def __init__(
        self,
        cluster: Cluster,
        peers: Peers,
        heartbeats: Heartbeats,
        look: Callable[[], Awaitable[None]] = _look_nowhere,
    ) -> None:
        self._cluster = cluster
        self._peers = peers
        self._heartbeats = heartbeats
        self._look = look

    async def look_here(self) -> None:
        """Bring the state up to date with this node's own models folder."""
        await self._look()

    async def look(self, model_id: ModelId, fingerprint: str | None = None) -> None:
        """Have every node look that is not known to have a model, or not its files of this fingerprint.

        What a node that does not answer in time has stays unknown.
        """
        state = self._cluster.state
        known = state.self_status.models.get(model_id)
        own = [] if known is not None and fingerprint in (None, known) else [self._look()]
        missing = [
            member
            for member in state.members.values()
            if member.state == "alive"
            and not member.is_indirect
            and ((held := member.status.models.get(model_id)) is None or fingerprint not in (None, held))
        ]
        await asyncio.gather(*own, *(self._ask(member, model_id) for member in missing))

    async def _ask(self, member: Member, model_id: ModelId) -> None:
        with suppress(ExoLiteError, TimeoutError):
            async with asyncio.timeout(LOOK_TIMEOUT_S), self._peers.node(member.address) as client:
                await client.describe_model(model_id, timeout_s=LOOK_TIMEOUT_S)
                await self._heartbeats.hear_from(member, client)
