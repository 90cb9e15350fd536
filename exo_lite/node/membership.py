"""Membership of the cluster: peers join by handshakes, stay by heartbeats and leave with a goodbye."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from dataclasses import replace

from exo_lite.domain.clock import Clock
from exo_lite.domain.cluster_events import (
    MemberJoined,
    MemberLeft,
    SelfChanged,
    TimePassed,
)
from exo_lite.domain.cluster_state import Member
from exo_lite.domain.errors import (
    HandshakeRefused,
    NodeLost,
    OwnAddress,
)
from exo_lite.domain.ids import BootId, NodeId
from exo_lite.domain.links import direct_links
from exo_lite.domain.node import NodeIdentity, NodeStatus
from exo_lite.node.awake_clock import AwakeClock
from exo_lite.node.cluster import Cluster
from exo_lite.node.event_log import EventLog
from exo_lite.node.heartbeats import Heartbeats
from exo_lite.node.meetings import HEARTBEAT_TIMEOUT_S, Meetings
from exo_lite.node.network import reachable_forms
from exo_lite.node.peers import Peers
from exo_lite.node.routes import find_route
from exo_lite.node.supervisor import Supervisor

log = logging.getLogger(__name__)

TICK_EVERY_S = 0.25
DIAL_BACK_TIMEOUT_S = 1.5


class Membership:
    """Runs as one task. All its knowledge is in Cluster: `meetings` has the candidates, `heartbeats` the links."""

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
        self.heartbeats = Heartbeats(cluster, peers, clock, self.meetings, now=self._clock.now, start=self._start)
        for address in addresses:
            self.meetings.candidates.want(address)
        self._tasks: asyncio.TaskGroup

    async def run(self) -> None:
        """Run until cancelled."""
        try:
            async with asyncio.TaskGroup() as self._tasks:
                self.meetings.begin()
                await self._supervisor.keep("membership", self._keep_ticking)
        finally:
            await self.heartbeats.close()

    def now(self) -> float:
        """The time of the clock of Member.heard_at_s."""
        return self._clock.now()

    @property
    def is_up_to_date(self) -> bool:
        """True if this node knows what is placed, so that it may place more.

        Not so after a long sleep, in which others may have taken it for dead and gone on, nor while somebody has just
        joined who may come from another half of the cluster.
        """
        return not self._clock.has_just_woken and not self.meetings.has_untold

    def on_network_change(self, addresses: tuple[str, ...]) -> None:
        """This node's own addresses are others: tell the members, and try everybody anew."""
        old = self._cluster.state.self_status
        identity = replace(old.identity, addresses=addresses)
        self._cluster.apply(SelfChanged(replace(old, sequence=old.sequence + 1, identity=identity)))
        self.meetings.candidates.try_all_now()
        self.heartbeats.open_anew()

    async def leave(self) -> None:
        """Say goodbye, so that nobody has to find out, and do nothing that would bring this node back."""
        await self.meetings.end()
        members = self._cluster.state.members.values()
        goodbyes = (self._say_goodbye(member) for member in members if member.state != "dead")
        await asyncio.gather(*goodbyes, return_exceptions=True)

    async def _say_goodbye(self, member: Member) -> None:
        """Say goodbye on a new connection: the link to a node that just joined may not be there yet."""
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
        self.meetings.expect_word_of(status.identity.node_id)
        self._join(status, route.address, begun_at_s)
        return self._cluster.state.self_status

    def _refuse_if_over(self) -> None:
        if self.meetings.is_over:
            raise NodeLost(f"{self._identity.name} is shutting down")

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
        self.heartbeats.open_links()
        self.meetings.tick()

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
            self.heartbeats.kick()

    def _join(self, status: NodeStatus, route: str, begun_at_s: float) -> None:
        identity = status.identity
        self._cluster.apply(MemberJoined(status, self._clock.now(), route, begun_at_s))
        for address in (*reachable_forms(identity.addresses), route):
            self.meetings.candidates.hear_of(address, identity.node_id, identity.name)
        self.meetings.candidates.succeeded(route, identity.node_id, identity.name)
        self._introduce()
