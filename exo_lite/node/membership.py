"""Who belongs to the cluster: handshakes with those found, heartbeats with those known."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Coroutine
from dataclasses import dataclass, field, replace

from exo_lite.domain.cluster import (
    HeartbeatHeard,
    Member,
    MemberHeardOf,
    MemberJoined,
    MemberLeft,
    MemberVouchedFor,
    PlacementSeen,
    RefusedConnection,
    SelfChanged,
    TimePassed,
)
from exo_lite.domain.errors import (
    ConnectionRefused,
    DuplicateNode,
    ExoLiteError,
    HandshakeRefused,
    IncompatibleVersion,
    NodeLost,
    NotAMember,
    NotReachable,
    OwnAddress,
    WrongCluster,
)
from exo_lite.domain.heartbeat import Heartbeat
from exo_lite.domain.ids import BootId, NodeId
from exo_lite.domain.links import direct_links, relayed_to
from exo_lite.domain.node import NodeIdentity, NodeStatus
from exo_lite.node.awake_clock import AwakeClock
from exo_lite.node.cluster import Cluster
from exo_lite.node.events import EventLog
from exo_lite.node.network import reachable_forms
from exo_lite.node.routes import find_route
from exo_lite.node.supervisor import Supervisor
from exo_lite.transport.node_client import NodeClient

log = logging.getLogger(__name__)

HEARTBEAT_EVERY_S = 0.5
HEARTBEAT_TIMEOUT_S = 1.0
REFUSED_RETRY_S = 0.2
TICK_EVERY_S = 0.25
HANDSHAKE_TIMEOUT_S = 3.0
DIAL_BACK_TIMEOUT_S = 1.5
RETRY_AFTER_S = 1.0
RETRY_AFTER_REFUSAL_S = 15.0
NUM_WITNESSES = 2


@dataclass(slots=True)
class _Candidate:
    """An address where a peer may be. `is_wanted` ones were asked for and are tried for ever."""

    is_wanted: bool
    node_id: NodeId | None = None
    """Who answered there, once someone did."""
    next_try_s: float = 0.0
    last_refusal: str | None = None


@dataclass(slots=True)
class _Link:
    """The heartbeats to one member."""

    client: NodeClient
    task: asyncio.Task[None]
    kick: asyncio.Event = field(default_factory=asyncio.Event)


class Membership:
    """Runs as one task. All its knowledge is in Cluster; what it owns are links and candidates."""

    def __init__(
        self, cluster: Cluster, events: EventLog, peers: tuple[str, ...], supervisor: Supervisor | None = None
    ) -> None:
        self._cluster = cluster
        self._supervisor = supervisor or Supervisor()
        self._events = events
        self._clock = AwakeClock(time.monotonic, max_tick_s=2 * TICK_EVERY_S)
        self._candidates = {address: _Candidate(is_wanted=True) for address in peers}
        self._links: dict[NodeId, _Link] = {}
        self._handshakes: dict[str, asyncio.Task[None]] = {}
        self._is_leaving = False
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

    def suggest(self, address: str) -> None:
        """A peer may be at this address."""
        candidate = self._candidates.setdefault(address, _Candidate(is_wanted=False))
        candidate.next_try_s = min(candidate.next_try_s, self._clock.now())

    async def meet(self) -> None:
        """Shake hands now with those whom members know and this node does not, instead of at the next tick."""
        if self._is_leaving:
            return
        self._try_candidates()
        known = self._known_to_members()
        tasks = [task for address, task in self._handshakes.items() if address in known]
        if tasks:
            await asyncio.wait(tasks, timeout=HANDSHAKE_TIMEOUT_S)

    async def hear_from(self, member: Member, client: NodeClient) -> None:
        """Learn now what a member has to tell, instead of at the next beat."""
        await self._beat(member, client)

    def kick(self) -> None:
        """Tell every member now what changed here, instead of at the next beat."""
        for link in self._links.values():
            link.kick.set()

    async def leave(self) -> None:
        """Say goodbye, so that nobody has to find out, and do nothing that would bring this node back."""
        self._is_leaving = True
        members = self._cluster.state.members.values()
        goodbyes = (self._say_goodbye(member) for member in members if member.state != "dead")
        await asyncio.gather(*goodbyes, return_exceptions=True)

    async def _say_goodbye(self, member: Member) -> None:
        """On a connection of its own: the link of one that just joined may not be there yet."""
        async with NodeClient(member.address) as client:
            await client.leave(self._identity.node_id, self._identity.boot_id, timeout_s=HEARTBEAT_TIMEOUT_S)

    # What others ask.

    async def on_handshake(self, status: NodeStatus, seen_from: str | None) -> NodeStatus:
        """Take a peer in, that calls from host `seen_from`.

        Raises HandshakeRefused, or NodeLost where this node is on its way out.
        """
        if self._is_leaving:
            raise NodeLost(f"{self._identity.name} is shutting down")
        try:
            self._check_identity(status.identity)
            await self._check_not_duplicate(status.identity)
            addresses = reachable_forms(status.identity.addresses, seen_from)
            route = await find_route(status.identity, addresses, timeout_s=DIAL_BACK_TIMEOUT_S)
        except OwnAddress:
            raise
        except HandshakeRefused as error:
            self._note_refusal(status.identity.address, error)
            raise
        self._join(status, route.address)
        return self._cluster.state.self_status

    def on_heartbeat(self, heartbeat: Heartbeat) -> Heartbeat:
        """Raises NotAMember where a handshake has to come first."""
        status = heartbeat.status
        member = self._cluster.state.members.get(status.identity.node_id)
        if member is None or member.state == "dead" or member.status.identity.boot_id != status.identity.boot_id:
            raise NotAMember(f"{self._identity.name} does not count {status.identity.name} as a member: shake hands")
        self._hear(heartbeat)
        state = self._cluster.state
        is_news = state.placement != heartbeat.placement
        relayed = relayed_to(state, status.identity.node_id, self._clock.now())
        return Heartbeat(state.self_status, state.placement if is_news else None, relayed)

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
            self._cluster.apply(MemberLeft(node_id))

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
        if self._is_leaving:
            return
        self._introduce()
        members = self._cluster.state.members
        for node_id, member in members.items():
            if member.state != "dead" and not member.is_indirect and node_id not in self._links:
                self._open_link(member)
        self._try_candidates()

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

    def _try_candidates(self) -> None:
        now_s = self._clock.now()
        for address in self._addresses_to_try(now_s):
            self._candidates[address].next_try_s = now_s + RETRY_AFTER_S
            self._handshakes[address] = self._start(f"the handshake with {address}", self._shake_hands(address))

    def _addresses_to_try(self, now_s: float) -> list[str]:
        state = self._cluster.state
        met = [one for one in state.members.values() if one.state != "dead" and not one.is_indirect]
        known = {*self._identity.addresses, *(address for one in met for address in one.status.identity.addresses)}
        for address in self._known_to_members() | self._unmet_addresses():
            self._candidates.setdefault(address, _Candidate(is_wanted=False))
        return [
            address
            for address, candidate in self._candidates.items()
            if address not in known
            and not self._is_met(candidate.node_id)
            and address not in self._handshakes
            and candidate.next_try_s <= now_s
        ]

    def _known_to_members(self) -> set[str]:
        return {address for status in self._cluster.state.living.values() for address in status.known_addresses}

    def _unmet_addresses(self) -> set[str]:
        """Where dead members were, and those are that only others reach.

        The dead may have taken this node for dead too, and nobody else may tell the two.
        """
        members = self._cluster.state.members.values()
        unmet = [one for one in members if one.state == "dead" or one.is_indirect]
        return {address for one in unmet for address in (*reachable_forms(one.status.identity.addresses), one.address)}

    def _is_met(self, node_id: NodeId | None) -> bool:
        if node_id is None or node_id == self._identity.node_id:
            return node_id is not None
        member = self._cluster.state.members.get(node_id)
        return member is not None and member.state != "dead" and not member.is_indirect

    async def _shake_hands(self, address: str) -> None:
        if self._is_leaving:
            return  # a heartbeat that came after the goodbye was told to
        candidate = self._candidates.setdefault(address, _Candidate(is_wanted=False))
        try:
            async with NodeClient(address) as client:
                status = await client.handshake(self._cluster.state.self_status, timeout_s=HANDSHAKE_TIMEOUT_S)
                self._check_identity(status.identity)
                await self._check_not_duplicate(status.identity)
                await self._exchange_placements(client)  # first: either of the two may lead the other from now on
            self._join(status, address)
            candidate.node_id, candidate.last_refusal = status.identity.node_id, None
        except OwnAddress:
            candidate.node_id = self._identity.node_id
        except HandshakeRefused as error:
            candidate.next_try_s = self._clock.now() + RETRY_AFTER_REFUSAL_S
            self._note_refusal(address, error)
        except NodeLost:
            if not candidate.is_wanted and address not in self._unmet_addresses():
                self._candidates.pop(address, None)  # it will be suggested again when it is there
        except ExoLiteError as error:
            self._note_refusal(address, error)
        finally:
            self._handshakes.pop(address, None)

    async def _exchange_placements(self, client: NodeClient) -> None:
        state = self._cluster.state
        answer = await client.heartbeat(Heartbeat(state.self_status, state.placement), timeout_s=HEARTBEAT_TIMEOUT_S)
        if answer.placement is not None:
            self._cluster.apply(PlacementSeen(answer.placement))

    def _join(self, status: NodeStatus, route: str) -> None:
        self._cluster.apply(MemberJoined(status, self._clock.now(), route))
        link = self._links.get(status.identity.node_id)
        if link is not None and link.client.address != route:
            link.task.cancel()  # restarted at another address; the next tick opens a new link
        self._introduce()

    def _note_refusal(self, address: str, error: ExoLiteError) -> None:
        """Say it once, not at each try."""
        candidate = self._candidates.setdefault(address, _Candidate(is_wanted=False))
        candidate.next_try_s = self._clock.now() + RETRY_AFTER_REFUSAL_S
        if candidate.last_refusal != str(error):
            candidate.last_refusal = str(error)
            self._events.add("handshake_refused", str(error), _fix_for(error))

    # Checks of a handshake.

    def _check_identity(self, theirs: NodeIdentity) -> None:
        ours = self._identity
        if theirs.boot_id == ours.boot_id:
            raise OwnAddress(f"{ours.name} called itself at {theirs.address}")
        if theirs.cluster != ours.cluster:
            raise WrongCluster(f"{theirs.name} belongs to cluster {theirs.cluster!r}, {ours.name} to {ours.cluster!r}")
        if theirs.protocol_version != ours.protocol_version:
            raise IncompatibleVersion(
                f"{theirs.name} runs exo-lite {theirs.version} (protocol {theirs.protocol_version}), "
                f"{ours.name} runs {ours.version} (protocol {ours.protocol_version})"
            )
        if theirs.node_id == ours.node_id:
            raise DuplicateNode(f"{theirs.name} and {ours.name} have the same node id {ours.node_id}")

    async def _check_not_duplicate(self, theirs: NodeIdentity) -> None:
        """A new boot of a known id is a restart, unless the old boot still answers."""
        member = self._cluster.state.members.get(theirs.node_id)
        if member is None or member.status.identity.boot_id == theirs.boot_id:
            return
        known = member.status.identity
        try:
            async with NodeClient(member.address) as client:
                answer = await client.identify(timeout_s=HEARTBEAT_TIMEOUT_S)
        except ExoLiteError:
            return
        if answer.boot_id == known.boot_id:
            raise DuplicateNode(
                f"{theirs.name} at {theirs.address} has the node id {theirs.node_id} of {known.name} at {known.address}"
            )

    # Heartbeats.

    def _open_link(self, member: Member) -> None:
        identity = member.status.identity
        client = NodeClient(member.address)
        task = self._start(f"the heartbeat to {identity.name}", self._keep_beating(identity.node_id, client))
        self._links[identity.node_id] = _Link(client, task)

    async def _keep_beating(self, node_id: NodeId, client: NodeClient) -> None:
        try:
            while (member := self._cluster.state.members.get(node_id)) is not None and member.state != "dead":
                if self._is_leaving or member.is_indirect:
                    return
                pause_s = await self._beat(member, client)
                if member.state == "suspect":
                    await self._ask_witnesses(node_id)
                await _wait_for(self._links[node_id].kick, pause_s)
        finally:
            del self._links[node_id]
            await client.close()

    async def _beat(self, member: Member, client: NodeClient) -> float:
        """One heartbeat; returns the seconds until the next."""
        state, started_s = self._cluster.state, time.monotonic()
        identity = member.status.identity
        relayed = relayed_to(state, identity.node_id, self._clock.now())
        news = Heartbeat(state.self_status, state.placement, relayed)
        try:
            answer = await client.heartbeat(news, timeout_s=HEARTBEAT_TIMEOUT_S)
        except ConnectionRefused:
            self._cluster.apply(RefusedConnection(identity.node_id))
            return REFUSED_RETRY_S
        except NotAMember:
            await self._shake_hands(client.address)
        except ExoLiteError as error:
            log.debug("heartbeat failed", extra={"peer": identity.name, "cause": str(error)})
        else:
            self._hear(answer, rtt_ms=(time.monotonic() - started_s) * 1000)
        return HEARTBEAT_EVERY_S

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
        if heartbeat.placement is not None:
            self._cluster.apply(PlacementSeen(heartbeat.placement))


async def _wait_for(event: asyncio.Event, timeout_s: float) -> None:
    try:
        async with asyncio.timeout(timeout_s):
            await event.wait()
    except TimeoutError:
        return
    event.clear()


def _fix_for(error: ExoLiteError) -> str:
    fixes: dict[type[ExoLiteError], str] = {
        WrongCluster: "start both with the same --cluster, or remove the --peer",
        IncompatibleVersion: "install the same exo-lite version on both",
        DuplicateNode: "a data folder was copied: delete the file node_id in one of them and start it again",
        NotReachable: "set --host to an address that the others reach, and let the port through the firewall",
    }
    return fixes.get(type(error), "see the message")
