"""Who belongs to the cluster: handshakes with those found, heartbeats with those known."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from contextlib import suppress
from dataclasses import dataclass, field, replace

from exo_lite.domain.clock import Clock
from exo_lite.domain.cluster_events import (
    HeartbeatHeard,
    MemberHeardOf,
    MemberJoined,
    MemberLeft,
    MemberVouchedFor,
    PlacementSeen,
    RefusedConnection,
    RouteFound,
    SelfChanged,
    TimePassed,
)
from exo_lite.domain.cluster_state import Member
from exo_lite.domain.errors import (
    ConnectionRefused,
    ExoLiteError,
    HandshakeRefused,
    NodeLost,
    NotAMember,
    OwnAddress,
)
from exo_lite.domain.heartbeat import Heartbeat
from exo_lite.domain.ids import BootId, NodeId
from exo_lite.domain.links import direct_links, relayed_to
from exo_lite.domain.node import NodeIdentity, NodeStatus
from exo_lite.domain.placement import Placement
from exo_lite.node.awake_clock import AwakeClock
from exo_lite.node.cluster import Cluster
from exo_lite.node.events import EventLog
from exo_lite.node.meetings import HEARTBEAT_TIMEOUT_S, Meetings
from exo_lite.node.network import reachable_forms
from exo_lite.node.peers import PeerNode, Peers
from exo_lite.node.routes import find_route
from exo_lite.node.supervisor import Supervisor

log = logging.getLogger(__name__)

HEARTBEAT_EVERY_S = 0.5
REFUSED_RETRY_S = 0.2
TICK_EVERY_S = 0.25
DIAL_BACK_TIMEOUT_S = 1.5
COMPARE_EVERY_S = 30.0
"""The addresses of a member that has several."""
NUM_WITNESSES = 2


@dataclass(slots=True)
class _Link:
    """The heartbeats to one member, by one route."""

    client: PeerNode
    task: asyncio.Task[None]
    kick: asyncio.Event = field(default_factory=asyncio.Event)
    compared: tuple[str, ...] = ()
    """The addresses of the member that were compared last."""
    compared_at_s: float = 0.0


class Membership:
    """Runs as one task. All its knowledge is in Cluster; what it owns are links and candidates."""

    def __init__(
        self,
        cluster: Cluster,
        events: EventLog,
        peers: Peers,
        clock: Clock,
        supervisor: Supervisor,
        *,
        addresses: tuple[str, ...] = (),
        worker_ports: tuple[int, int] = (0, 0),
    ) -> None:
        """`addresses`: where peers are asked for, which are tried for as long as the daemon lives."""
        self._cluster = cluster
        self._peers = peers
        self._supervisor = supervisor
        self._events = events
        self._time = clock
        self._clock = AwakeClock(clock.now, max_tick_s=2 * TICK_EVERY_S)
        self.meetings = Meetings(
            cluster,
            events,
            peers,
            clock=self._clock.now,
            start=self._start,
            join=self._join,
            worker_ports=worker_ports,
        )
        for address in addresses:
            self.meetings.candidates.want(address)
        self._links: dict[NodeId, _Link] = {}
        self._tasks: asyncio.TaskGroup

    async def run(self) -> None:
        """Until cancelled."""
        try:
            async with asyncio.TaskGroup() as self._tasks:
                await self._supervisor.keep("membership", self._keep_ticking)
        finally:
            await asyncio.gather(*(link.client.close() for link in self._links.values()))

    def now(self) -> float:
        """Of the clock that Member.heard_at_s was read from."""
        return self._clock.now()

    @property
    def is_up_to_date(self) -> bool:
        """Not so right after a long sleep, in which others may have taken this node for dead and gone on."""
        return not self._clock.has_just_woken

    def on_network_change(self, addresses: tuple[str, ...]) -> None:
        """This node's own addresses are others: tell the members, and try everybody anew."""
        old = self._cluster.state.self_status
        identity = replace(old.identity, addresses=addresses)
        self._cluster.apply(SelfChanged(replace(old, sequence=old.sequence + 1, identity=identity)))
        self.meetings.candidates.try_all_now()
        for node_id in list(self._links):
            self._drop_link(node_id)  # its connection may come from an address that is gone
        self._open_links()

    async def hear_from(self, member: Member, client: PeerNode) -> None:
        """Learn now what a member has to tell, instead of at the next beat."""
        await self._beat(member, client)

    def kick(self) -> None:
        """Tell every member now what changed here, instead of at the next beat."""
        for link in self._links.values():
            link.kick.set()

    async def leave(self) -> None:
        """Say goodbye, so that nobody has to find out, and do nothing that would bring this node back."""
        await self.meetings.end()
        members = self._cluster.state.members.values()
        goodbyes = (self._say_goodbye(member) for member in members if member.state != "dead")
        await asyncio.gather(*goodbyes, return_exceptions=True)

    async def _say_goodbye(self, member: Member) -> None:
        """On a connection of its own: the link of one that just joined may not be there yet."""
        async with self._peers.node(member.address) as client:
            await client.leave(self._identity.node_id, self._identity.boot_id, timeout_s=HEARTBEAT_TIMEOUT_S)

    # What others ask.

    async def on_handshake(self, status: NodeStatus, seen_from: str | None) -> NodeStatus:
        """Take a peer in, that calls from host `seen_from`.

        Raises HandshakeRefused, or NodeLost where this node is on its way out.
        """
        begun_at_s = self._clock.now()
        self._refuse_if_over()
        try:
            await self.meetings.check(status.identity)
            addresses = reachable_forms(status.identity.addresses, seen_from)
            route = await find_route(self._peers, self._time, status.identity, addresses, timeout_s=DIAL_BACK_TIMEOUT_S)
        except OwnAddress:
            raise
        except HandshakeRefused as error:
            self.meetings.note_refusal(status.identity, error)
            raise
        self._refuse_if_over()
        self._join(status, route.address, begun_at_s)
        return self._cluster.state.self_status

    def _refuse_if_over(self) -> None:
        if self.meetings.is_over:
            raise NodeLost(f"{self._identity.name} is shutting down")

    def on_heartbeat(self, heartbeat: Heartbeat) -> Heartbeat:
        """Raises NotAMember where a handshake has to come first."""
        status = heartbeat.status
        member = self._cluster.state.members.get(status.identity.node_id)
        if member is None or member.state == "dead" or member.status.identity.boot_id != status.identity.boot_id:
            raise NotAMember(f"{self._identity.name} does not count {status.identity.name} as a member: shake hands")
        self._hear(heartbeat)
        state = self._cluster.state
        if state.members[status.identity.node_id].address != member.address:
            self._open_links()  # it has moved
        news = Placement.empty() if state.written == heartbeat.placement else state.written
        relayed = relayed_to(state, status.identity.node_id, self._clock.now())
        return Heartbeat(state.self_status, news, relayed)

    async def on_probe(self, node_id: NodeId) -> bool:
        link = self._links.get(node_id)
        if link is None:
            return False
        try:
            await link.client.identify(timeout_s=HEARTBEAT_TIMEOUT_S)
        except ExoLiteError:
            return False
        return True

    def on_leave(self, node_id: NodeId, boot_id: BootId) -> None:
        member = self._cluster.state.members.get(node_id)
        if member is not None and member.status.identity.boot_id == boot_id:
            self._cluster.apply(MemberLeft(node_id, self._clock.now()))

    # The ticking.

    @property
    def _identity(self) -> NodeIdentity:
        return self._cluster.state.self_status.identity

    async def _keep_ticking(self) -> None:
        while True:
            self._tick()
            await asyncio.sleep(TICK_EVERY_S)

    def _start(self, what: str, work: Coroutine[object, object, None]) -> asyncio.Task[None]:
        """A task that fails alone: the next tick starts it again where it is still wanted."""
        return self._tasks.create_task(self._supervisor.contain(what, work))

    def _tick(self) -> None:
        self._cluster.apply(TimePassed(self._clock.tick()))
        if self.meetings.is_over:
            return
        self._introduce()
        self._open_links()
        self.meetings.tick()

    def _open_links(self) -> None:
        """One to every member that answers, by the address where it is best reached now."""
        for node_id, member in self._cluster.state.members.items():
            link = self._links.get(node_id)
            if link is not None and member.address != link.client.address:
                self._drop_link(node_id)
            if member.state != "dead" and not member.is_indirect and node_id not in self._links:
                self._open_link(member)

    def _drop_link(self, node_id: NodeId) -> None:
        self._links.pop(node_id).task.cancel()

    def _introduce(self) -> None:
        """Tell every member at once whom this node knows and reaches, where that has changed."""
        state = self._cluster.state
        alive = [one.status.identity for one in state.members.values() if one.state == "alive"]
        known = tuple(sorted({address for identity in alive for address in identity.addresses}))
        reached, unreached = direct_links(state, self._clock.now())
        old = state.self_status
        new = replace(old, known_addresses=known, reached=reached, unreached=unreached)
        if new != old:
            self._cluster.apply(SelfChanged(replace(new, sequence=old.sequence + 1)))
            self.kick()

    def _join(self, status: NodeStatus, route: str, begun_at_s: float) -> None:
        identity = status.identity
        self._cluster.apply(MemberJoined(status, self._clock.now(), route, begun_at_s))
        for address in (*reachable_forms(identity.addresses), route):
            self.meetings.candidates.hear_of(address, identity.node_id, identity.name)
        self.meetings.candidates.succeeded(route, identity.node_id, identity.name)
        self._introduce()

    # Heartbeats.

    def _open_link(self, member: Member) -> None:
        identity = member.status.identity
        client = self._peers.node(member.address)
        task = self._start(f"the heartbeat to {identity.name}", self._keep_beating(identity.node_id, client))
        self._links[identity.node_id] = _Link(client, task)

    async def _keep_beating(self, node_id: NodeId, client: PeerNode) -> None:
        link = self._links.get(node_id)
        try:
            while link is not None:
                member = self._cluster.state.members.get(node_id)
                if member is None or member.state == "dead" or member.is_indirect:
                    return
                if self.meetings.is_over or member.address != client.address:
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
        state, started_s = self._cluster.state, self._time.now()
        identity = member.status.identity
        relayed = relayed_to(state, identity.node_id, self._clock.now())
        news = Heartbeat(state.self_status, state.written, relayed)
        try:
            answer = await client.heartbeat(news, timeout_s=HEARTBEAT_TIMEOUT_S)
        except ConnectionRefused:
            self._cluster.apply(RefusedConnection(identity.node_id))
            return REFUSED_RETRY_S
        except NotAMember:
            await self.meetings.shake_hands(client.address)
        except ExoLiteError as error:
            log.debug("heartbeat failed", extra={"peer": identity.name, "cause": str(error)})
        else:
            self._hear(answer, rtt_ms=(self._time.now() - started_s) * 1000)
        return HEARTBEAT_EVERY_S

    async def _compare_routes(self, node_id: NodeId, link: _Link) -> None:
        """Where a member has several addresses, find the best one: at first, when they change, in trouble, at times."""
        member, now_s = self._cluster.state.members.get(node_id), self._clock.now()
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
                self._peers, self._time, member.status.identity, [*addresses], timeout_s=HEARTBEAT_TIMEOUT_S
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
            *(client.probe(node_id, timeout_s=2 * HEARTBEAT_TIMEOUT_S) for client in witnesses), return_exceptions=True
        )
        if any(answer is True for answer in answers):
            self._cluster.apply(MemberVouchedFor(node_id, self._clock.now()))

    def _hear(self, heartbeat: Heartbeat, rtt_ms: float | None = None) -> None:
        now_s = self._clock.now()
        self._cluster.apply(HeartbeatHeard(heartbeat.status, now_s, rtt_ms))
        for status in heartbeat.relayed:
            self._cluster.apply(MemberHeardOf(status, now_s))
        self._cluster.apply(PlacementSeen(heartbeat.placement))


async def _wait_for(event: asyncio.Event, timeout_s: float) -> None:
    try:
        async with asyncio.timeout(timeout_s):
            await event.wait()
    except TimeoutError:
        return
    event.clear()
