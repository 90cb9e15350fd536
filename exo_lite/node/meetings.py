"""Meeting peers: handshakes at every address where one may be, for as long as the daemon lives."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress

from exo_lite.domain.addresses import split_address
from exo_lite.domain.cluster_events import DEAD_AFTER_S, PlacementSeen
from exo_lite.domain.errors import (
    ConnectionRefused,
    DuplicateNode,
    ExoLiteError,
    HandshakeRefused,
    LargePacketsLost,
    NotReachable,
    OwnAddress,
)
from exo_lite.domain.heartbeat import Heartbeat
from exo_lite.domain.ids import NodeId
from exo_lite.domain.node import NodeIdentity, NodeStatus
from exo_lite.domain.repeats import Repeats
from exo_lite.node.admission import check_identity, check_not_duplicate, fix_for
from exo_lite.node.candidates import Candidate, Candidates, Unreached
from exo_lite.node.cluster import Cluster
from exo_lite.node.event_log import EventLog
from exo_lite.node.network import reachable_forms
from exo_lite.node.node_config import DEFAULT_PORT
from exo_lite.node.packet_size import check_large_messages
from exo_lite.node.peers import PeerNode, Peers

PORT_TIMEOUT_S = 2.0
HANDSHAKE_TIMEOUT_S = 3.0
LARGE_MESSAGE_TIMEOUT_S = 1.5
HEARTBEAT_TIMEOUT_S = 1.0
RETRY_AFTER_REFUSAL_S = 15.0
TELL_AGAIN_AFTER_S = 600.0
MAX_REASON_CHARS = 500

Start = Callable[[str, Coroutine[object, object, None]], asyncio.Task[None]]
Join = Callable[[NodeStatus, str, float], None]


class Meetings:
    """The candidates of a membership, and the handshakes with them.

    `join` takes a peer in: its status, the way to it, and when the handshake began, by `clock`.
    """

    def __init__(
        self,
        cluster: Cluster,
        events: EventLog,
        peers: Peers,
        *,
        clock: Callable[[], float],
        start: Start,
        join: Join,
        worker_ports: tuple[int, int],
    ) -> None:
        self.is_over = False
        """Set when this node is on its way out."""
        self._is_begun = False
        self.candidates = Candidates(clock)
        self._cluster = cluster
        self._events = events
        self._peers = peers
        self._clock = clock
        self._start = start
        self._join = join
        self._worker_ports = worker_ports
        self._told_again = Repeats(clock, every_s=TELL_AGAIN_AFTER_S)
        self._handshakes: dict[str, asyncio.Task[None]] = {}
        self._untold: dict[NodeId, float] = {}
        """Nodes that called to join, each with when, that have not told since then what is placed on their side."""

    def suggest(self, address: str) -> None:
        """A peer may be at this address."""
        self.candidates.see(address)

    def see(self, node_id: NodeId | None, name: str | None, addresses: Sequence[str]) -> None:
        """A peer is announced on the network."""
        forms = reachable_forms(addresses)
        if node_id is not None:
            self.candidates.lose_sight(node_id, forms)
        for address in forms:
            self.candidates.see(address, node_id, name)

    def lose_sight(self, node_id: NodeId) -> None:
        """A peer is announced no more, which does not say that it is gone."""
        self.candidates.lose_sight(node_id, ())

    def unreached(self) -> list[Unreached]:
        """Peers that were asked for or are seen on the network, and are no members."""
        return self.candidates.unreached(self._is_of_no_more_interest)

    async def meet(self) -> None:
        """Shake hands now with those whom members know and this node does not, instead of at the next tick."""
        if self.is_over or not self._is_begun:
            return
        self._try_candidates()
        known = self._known_to_members()
        tasks = [task for address, task in self._handshakes.items() if address in known]
        if tasks:
            await asyncio.wait(tasks, timeout=HANDSHAKE_TIMEOUT_S)

    def expect_word_of(self, node_id: NodeId) -> None:
        """A node that called joins now: it may come from another half of the cluster."""
        self._untold[node_id] = self._clock()

    def has_told(self, node_id: NodeId) -> None:
        """Note that this node knows what is placed on another node's side."""
        self._untold.pop(node_id, None)

    @property
    def has_untold(self) -> bool:
        """Say whether a node that has just joined still has to tell what is placed on its side."""
        since_s, living = self._clock() - DEAD_AFTER_S, self._cluster.state.living
        return any(at_s > since_s and node_id in living for node_id, at_s in self._untold.items())

    async def until_all_have_told(self) -> None:
        """Wait until who has just joined has told what is placed on its side, is gone, or has had the time to."""
        await self._cluster.wait_for(lambda state: None if self.has_untold else True)

    def begin(self) -> None:
        """Let `start` take tasks from now on."""
        self._is_begun = True

    async def end(self) -> None:
        """This node is on its way out: no handshake of its own goes on."""
        self.is_over = True
        handshakes = [*self._handshakes.values()]
        for handshake in handshakes:
            handshake.cancel()
        await asyncio.gather(*handshakes, return_exceptions=True)

    @property
    def _identity(self) -> NodeIdentity:
        return self._cluster.state.self_status.identity

    def tick(self) -> None:
        """Try who is due."""
        self._try_candidates()
        self._tell_of_unreached()

    def _try_candidates(self) -> None:
        for member in self._cluster.state.members.values():
            if member.is_indirect:
                identity = member.status.identity
                for address in reachable_forms(identity.addresses):
                    self.candidates.hear_of(address, identity.node_id, identity.name)
        for address in self._known_to_members():
            self.candidates.hear_of(address)
        for address in self.candidates.take_due(self._is_met_at, self._handshakes):
            self._handshakes[address] = self._start(f"the handshake with {address}", self.shake_hands(address))

    def _known_to_members(self) -> set[str]:
        return {address for status in self._cluster.state.living.values() for address in status.known_addresses}

    def _is_met_at(self, candidate: Candidate) -> bool:
        """Say whether the node at this address is a member that answers, or this one."""
        if self._is_met(candidate.node_id):
            return True
        met = [one for one in self._cluster.state.members.values() if one.state != "dead" and not one.is_indirect]
        return candidate.address in self._identity.addresses or any(
            candidate.address in (one.address, *one.status.identity.addresses) for one in met
        )

    def _is_of_no_more_interest(self, candidate: Candidate) -> bool:
        """Say whether to list a candidate as unreached no more: a member whose process has ended is shown as dead."""
        member = self._cluster.state.members.get(candidate.node_id) if candidate.node_id else None
        is_gone = member is not None and member.state == "dead" and candidate.error is ConnectionRefused
        return is_gone or self._is_met_at(candidate)

    def _is_met(self, node_id: NodeId | None) -> bool:
        if node_id is None or node_id == self._identity.node_id:
            return node_id is not None
        member = self._cluster.state.members.get(node_id)
        return member is not None and member.state != "dead" and not member.is_indirect

    async def shake_hands(self, address: str) -> None:
        if self.is_over:
            return  # a heartbeat that came after the goodbye was told to
        begun_at_s = self._clock()
        try:
            await self._peers.check_port(address, timeout_s=PORT_TIMEOUT_S)
            async with self._peers.node(address) as client:
                theirs = await client.identify(timeout_s=HANDSHAKE_TIMEOUT_S)
                self.candidates.hear_of(address, theirs.node_id, theirs.name)
                await check_large_messages(self._peers, client, theirs.name, timeout_s=LARGE_MESSAGE_TIMEOUT_S)
                await self._refuse_duplicate(client, theirs)  # first: the other side may take this node in
                status = await client.handshake(self._cluster.state.self_status, timeout_s=HANDSHAKE_TIMEOUT_S)
                await self.check(status.identity)
                await self._exchange_placements(client)  # first: either of the two may lead the other from now on
            self._join(status, address, begun_at_s)
        except OwnAddress:
            self.candidates.succeeded(address, self._identity.node_id)
        except ExoLiteError as error:
            retry_after_s = RETRY_AFTER_REFUSAL_S if _is_lasting(error) else None
            self.candidates.failed(address, error, self._fix_for(error), retry_after_s=retry_after_s)
            if isinstance(error, HandshakeRefused):
                self._tell(address, "handshake_refused", str(error), self._fix_for(error))
        finally:
            self._handshakes.pop(address, None)

    async def _refuse_duplicate(self, client: PeerNode, theirs: NodeIdentity) -> None:
        """A copied data folder is told of on both machines. Raises DuplicateNode."""
        try:
            await check_not_duplicate(self._peers, self._cluster.state.members.get(theirs.node_id), theirs)
        except DuplicateNode as error:
            with suppress(ExoLiteError):
                await client.refuse(str(error), timeout_s=HEARTBEAT_TIMEOUT_S)
            raise

    def on_refused(self, reason: str, seen_from: str | None) -> None:
        """Another node will not have this one. Anybody can say so: it is told, and changes nothing."""
        fix = self._fix_for(DuplicateNode(reason))
        self._tell(seen_from or "", "handshake_refused", reason[:MAX_REASON_CHARS], fix)

    async def check(self, theirs: NodeIdentity) -> None:
        """Raises HandshakeRefused."""
        check_identity(self._identity, theirs)
        await check_not_duplicate(self._peers, self._cluster.state.members.get(theirs.node_id), theirs)

    async def _exchange_placements(self, client: PeerNode) -> None:
        state = self._cluster.state
        answer = await client.heartbeat(Heartbeat(state.self_status, state.written), timeout_s=HEARTBEAT_TIMEOUT_S)
        self._cluster.apply(PlacementSeen(answer.placement))

    # What people are told.

    def note_refusal(self, theirs: NodeIdentity, error: HandshakeRefused) -> None:
        """This node refused one that called."""
        self.candidates.failed(theirs.address, error, self._fix_for(error), retry_after_s=RETRY_AFTER_REFUSAL_S)
        self._tell(theirs.address, "handshake_refused", str(error), self._fix_for(error))

    def _tell_of_unreached(self) -> None:
        for one in self.unreached():
            if not issubclass(one.error, HandshakeRefused):  # told of when it was refused
                self._tell(one.address, "node_unreached", f"{one.who} cannot be reached: {one.reason}", one.fix)

    def _tell(self, subject: str, kind: str, text: str, fix: str) -> None:
        """Say it once, and again when it is still so a good while later."""
        if self._told_again.tell(f"{subject} {text}") is not None:
            self._events.add(kind, text, fix)

    def _fix_for(self, error: ExoLiteError) -> str:
        first, last = self._worker_ports
        own_port = split_address(self._identity.address)[1] if self._identity.addresses else DEFAULT_PORT
        workers = f" and {first}-{last}/tcp" if last else " and the ports of its workers (see --worker-ports)"
        return fix_for(error, f"{own_port}/tcp{workers}")


def _is_lasting(error: ExoLiteError) -> bool:
    """Say whether one of the two nodes has to be restarted before a handshake can succeed."""
    return isinstance(error, HandshakeRefused) and not isinstance(error, NotReachable | LargePacketsLost)
