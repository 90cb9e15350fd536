"""A link to every member: its heartbeats, the best way there, and witnesses who are asked about a silent one."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass, field

from exo_lite.domain.clock import Clock
from exo_lite.domain.cluster_events import (
    HeartbeatHeard,
    MemberHeardOf,
    MemberVouchedFor,
    PlacementSeen,
    RefusedConnection,
    RouteFound,
)
from exo_lite.domain.cluster_state import Member
from exo_lite.domain.errors import ConnectionRefused, ExoLiteError, HandshakeRefused, NotAMember
from exo_lite.domain.heartbeat import Heartbeat
from exo_lite.domain.ids import NodeId
from exo_lite.domain.links import relayed_to
from exo_lite.domain.placement import Placement
from exo_lite.node.cluster import Cluster
from exo_lite.node.meetings import HEARTBEAT_TIMEOUT_S, Meetings
from exo_lite.node.network import reachable_forms
from exo_lite.node.peers import PeerNode, Peers
from exo_lite.node.routes import find_route

log = logging.getLogger(__name__)

HEARTBEAT_EVERY_S = 0.5
REFUSED_RETRY_S = 0.2
COMPARE_EVERY_S = 30.0
"""The addresses of a member that has several."""
NUM_WITNESSES = 2

Start = Callable[[str, Coroutine[object, object, None]], asyncio.Task[None]]


@dataclass(slots=True)
class _Link:
    """The heartbeats to one member, by one route."""

    client: PeerNode
    task: asyncio.Task[None]
    kick: asyncio.Event = field(default_factory=asyncio.Event)
    compared: tuple[str, ...] = ()
    """The addresses of the member that were compared last."""
    compared_at_s: float = 0.0


class Heartbeats:
    """Says how this node is and hears how the others are. `now` is the time of Member.heard_at_s."""

    def __init__(
        self,
        cluster: Cluster,
        peers: Peers,
        clock: Clock,
        meetings: Meetings,
        *,
        now: Callable[[], float],
        start: Start,
    ) -> None:
        self._cluster = cluster
        self._peers = peers
        self._clock = clock
        self._meetings = meetings
        self._now = now
        self._start = start
        self._links: dict[NodeId, _Link] = {}

    async def close(self) -> None:
        await asyncio.gather(*(link.client.close() for link in self._links.values()))

    def kick(self) -> None:
        """Tell every member now what changed here, instead of at the next beat."""
        for link in self._links.values():
            link.kick.set()

    def open_links(self) -> None:
        """One to every member that answers, by the address where it is best reached now."""
        for node_id, member in self._cluster.state.members.items():
            link = self._links.get(node_id)
            if link is not None and member.address != link.client.address:
                self._drop_link(node_id)
            if member.state != "dead" and not member.is_indirect and node_id not in self._links:
                self._open_link(member)

    def open_anew(self) -> None:
        """The addresses of this node are others: connections may come from one that is gone."""
        for node_id in list(self._links):
            self._drop_link(node_id)
        self.open_links()

    async def hear_from(self, member: Member, client: PeerNode) -> None:
        """Learn now what a member has to tell, instead of at the next beat."""
        await self._beat(member, client)

    # What others ask.

    def on_heartbeat(self, heartbeat: Heartbeat) -> Heartbeat:
        """Raises NotAMember where a handshake has to come first."""
        status, own = heartbeat.status, self._cluster.state.self_status
        member = self._cluster.state.members.get(status.identity.node_id)
        if member is None or member.state == "dead" or member.status.identity.boot_id != status.identity.boot_id:
            raise NotAMember(
                f"{status.identity.name} is not a member at {own.identity.name}: a handshake has to come first"
            )
        self._hear(heartbeat)
        if not heartbeat.placement.is_empty:
            self._meetings.has_told(status.identity.node_id)
        state = self._cluster.state
        if state.members[status.identity.node_id].address != member.address:
            self.open_links()  # it has moved
        news = Placement.empty() if state.written == heartbeat.placement else state.written
        return Heartbeat(state.self_status, news, relayed_to(state, status.identity.node_id, self._now()))

    async def on_ping_request(self, node_id: NodeId) -> bool:
        """Say whether this node reaches a member that the asking one does not: SWIM's indirect ping."""
        link = self._links.get(node_id)
        if link is None:
            return False
        try:
            await link.client.identify(timeout_s=HEARTBEAT_TIMEOUT_S)
        except ExoLiteError:
            return False
        return True

    # The links.

    def _open_link(self, member: Member) -> None:
        identity = member.status.identity
        client = self._peers.node(member.address)
        task = self._start(f"the heartbeat to {identity.name}", self._keep_beating(identity.node_id, client))
        self._links[identity.node_id] = _Link(client, task)

    def _drop_link(self, node_id: NodeId) -> None:
        self._links.pop(node_id).task.cancel()

    async def _keep_beating(self, node_id: NodeId, client: PeerNode) -> None:
        link = self._links.get(node_id)
        try:
            while link is not None:
                member = self._cluster.state.members.get(node_id)
                if member is None or member.state == "dead" or member.is_indirect:
                    return
                if self._meetings.is_over or member.address != client.address:
                    return
                pause_s = await self._beat(member, client)
                await asyncio.gather(self._ask_witnesses_if_suspect(node_id), self._compare_routes(node_id, link))
                await _wait_for(link.kick, pause_s)
        finally:
            if link is not None and self._links.get(node_id) is link:
                del self._links[node_id]
            await client.close()

    async def _beat(self, member: Member, client: PeerNode) -> float:
        """One heartbeat; returns the seconds until the next."""
        state, started_s = self._cluster.state, self._clock.now()
        identity = member.status.identity
        relayed = relayed_to(state, identity.node_id, self._now())
        news = Heartbeat(state.self_status, state.written, relayed)
        try:
            answer = await client.heartbeat(news, timeout_s=HEARTBEAT_TIMEOUT_S)
        except ConnectionRefused:
            self._cluster.apply(RefusedConnection(identity.node_id))
            return REFUSED_RETRY_S
        except NotAMember:
            await self._meetings.shake_hands(client.address)
        except ExoLiteError as error:
            log.debug("heartbeat failed", extra={"peer": identity.name, "cause": str(error)})
        else:
            self._hear(answer, rtt_ms=(self._clock.now() - started_s) * 1000)
            self._meetings.has_told(identity.node_id)
        return HEARTBEAT_EVERY_S

    def _hear(self, heartbeat: Heartbeat, rtt_ms: float | None = None) -> None:
        now_s = self._now()
        self._cluster.apply(HeartbeatHeard(heartbeat.status, now_s, rtt_ms))
        for word in heartbeat.relayed:
            self._cluster.apply(MemberHeardOf(word.status, now_s, word.age_s))
        self._cluster.apply(PlacementSeen(heartbeat.placement))

    async def _compare_routes(self, node_id: NodeId, link: _Link) -> None:
        """Find the best of a member's several addresses: at first, when they change, in trouble, and now and then."""
        member, now_s = self._cluster.state.members.get(node_id), self._now()
        if member is None or member.state == "dead":
            return
        forms = reachable_forms(member.status.identity.addresses)
        is_in_trouble = not member.is_reached(now_s)
        is_due = forms != link.compared or is_in_trouble or now_s - link.compared_at_s >= COMPARE_EVERY_S
        if not is_due or set(forms) <= {member.address}:
            return
        is_first = forms != link.compared or is_in_trouble  # else the way in use stays unless it is clearly slower
        addresses = dict.fromkeys((*forms, member.address) if is_first else (member.address, *forms))
        link.compared, link.compared_at_s = forms, now_s
        with suppress(HandshakeRefused):
            route = await find_route(
                self._peers, self._clock, member.status.identity, [*addresses], timeout_s=HEARTBEAT_TIMEOUT_S
            )
            self._cluster.apply(RouteFound(node_id, route.address))
            link.kick.set()

    async def _ask_witnesses_if_suspect(self, node_id: NodeId) -> None:
        member = self._cluster.state.members.get(node_id)
        if member is not None and member.state == "suspect":
            await self._ask_witnesses(node_id)

    async def _ask_witnesses(self, node_id: NodeId) -> None:
        witnesses = [link.client for other, link in self._links.items() if other != node_id][:NUM_WITNESSES]
        answers = await asyncio.gather(
            *(client.request_ping(node_id, timeout_s=2 * HEARTBEAT_TIMEOUT_S) for client in witnesses),
            return_exceptions=True,
        )
        if any(answer is True for answer in answers):
            self._cluster.apply(MemberVouchedFor(node_id, self._now()))


async def _wait_for(event: asyncio.Event, timeout_s: float) -> None:
    try:
        async with asyncio.timeout(timeout_s):
            await event.wait()
    except TimeoutError:
        return
    event.clear()
