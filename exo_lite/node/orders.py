"""Orders about placement: they go to the leader, be it this node or one that others have to be asked to reach."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TypeVar

from exo_lite.domain.cluster_events import DEAD_AFTER_S
from exo_lite.domain.errors import ExoLiteError, NodeLost
from exo_lite.domain.heartbeat import Heartbeat
from exo_lite.domain.ids import ModelId, NodeId
from exo_lite.domain.links import next_hop
from exo_lite.domain.load_options import LoadRequest
from exo_lite.domain.placement import Instance
from exo_lite.node.cluster import Cluster
from exo_lite.node.leader import Leader
from exo_lite.node.meetings import Meetings
from exo_lite.node.model_descriptions import ModelDescriptions
from exo_lite.node.peers import PeerNode, Peers

T = TypeVar("T")

ORDER_TIMEOUT_S = 10.0
LOSS_IS_NOTICED_WITHIN_S = DEAD_AFTER_S + 1.0


class Orders:
    """Takes them from HTTP and from other nodes alike."""

    def __init__(
        self, cluster: Cluster, peers: Peers, meetings: Meetings, leader: Leader, descriptions: ModelDescriptions
    ) -> None:
        self._cluster = cluster
        self._peers = peers
        self._meetings = meetings
        self._leader = leader
        self._descriptions = descriptions

    async def place(self, model_id: ModelId, request: LoadRequest) -> Instance:
        """Raises ModelNotFound, ModelDoesNotFit, NotReady, InvalidRequest, NodeLost."""

        async def here() -> Instance:
            description = await self._descriptions.everywhere(model_id)
            await self._meetings.until_all_have_told()
            return self._leader.place(description, request)

        async def there(leader: PeerNode) -> Instance:
            with suppress(ExoLiteError):  # it is to know whom this node knows, and what nobody here needs any more
                await leader.heartbeat(Heartbeat(self._cluster.state.self_status), timeout_s=ORDER_TIMEOUT_S)
            return await leader.place(model_id, request, timeout_s=ORDER_TIMEOUT_S)

        await self._meetings.meet()  # the newest node counts too, and may be the one that leads
        return await self._give(here, there)

    async def unplace(self, model_id: ModelId) -> None:
        """Raises ModelNotFound, NodeLost."""

        async def here() -> None:
            self._leader.unplace(model_id)

        await self._give(here, lambda leader: leader.unplace(model_id, timeout_s=ORDER_TIMEOUT_S))

    async def _give(self, here: Callable[[], Awaitable[T]], there: Callable[[PeerNode], Awaitable[T]]) -> T:
        """Give an order to the leader, or to a node on the way; if it is lost, to the next leader. Raises NodeLost."""
        while not self._cluster.state.is_leader:
            state = self._cluster.state
            nearer = state.members[next_hop(state, state.leader) or state.leader]
            try:
                async with self._peers.node(nearer.address) as client:
                    return await there(client)
            except NodeLost:
                if not await self._is_succeeded(state.leader):
                    raise
        return await here()

    async def _is_succeeded(self, leader: NodeId) -> bool:
        """Wait until another node leads; False if none does in time."""
        try:
            async with asyncio.timeout(LOSS_IS_NOTICED_WITHIN_S):
                await self._cluster.wait_for(lambda state: None if state.leader == leader else state.leader)
        except TimeoutError:
            return False
        return True
