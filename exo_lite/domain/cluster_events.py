"""A node's view of its cluster: a pure function of the events that reached it.

Failure detection follows SWIM (Das, Gupta, Motivala 2002) with a full mesh of heartbeats instead of random pings:
silence makes a member suspect, others are asked, further silence makes it dead. A refused connection speaks at once.
Where not every pair of nodes can talk, those between pass on how the others are: such a member is known, and suspect,
for as long as newer words of it come in.
Times are seconds of one monotonic clock, handed in with each event.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import assert_never

from exo_lite.domain.cluster_state import REFUSALS_TO_DIE, SUSPECT_AFTER_S, ClusterState, Member, MemberState
from exo_lite.domain.healing import newest
from exo_lite.domain.ids import NodeId
from exo_lite.domain.node import NodeStatus
from exo_lite.domain.placement import Placement

HEARD_WITHIN_S = 1.5
DEAD_AFTER_S = 4.0
RESTORED_PATIENCE_S = 15.0
"""The time to wait, after a restart of all, for nodes that a placement names and that have not been met yet."""
RTT_WEIGHT = 0.25
"""The weight of the newest measurement in the moving average."""
FORGET_AFTER_S = 600.0
"""A dead member leaves the list of nodes after this time."""


@dataclass(frozen=True, slots=True)
class MemberJoined:
    """A handshake that began at `begun_at_s` succeeded, in both directions. Also what brings a dead member back."""

    status: NodeStatus
    at_s: float
    route: str | None = None
    begun_at_s: float | None = None
    """None: just now."""


@dataclass(frozen=True, slots=True)
class RouteFound:
    """A member answers at this one of its addresses, faster than at the others."""

    node_id: NodeId
    route: str


@dataclass(frozen=True, slots=True)
class HeartbeatHeard:
    """A member spoke or answered; `rtt_ms` is known where it answered."""

    status: NodeStatus
    at_s: float
    rtt_ms: float | None = None


@dataclass(frozen=True, slots=True)
class MemberVouchedFor:
    """Another member reached a suspect one."""

    node_id: NodeId
    at_s: float


@dataclass(frozen=True, slots=True)
class MemberHeardOf:
    """Another member passed on how this one is, which it had said itself `age_s` before."""

    status: NodeStatus
    at_s: float
    age_s: float = 0.0


@dataclass(frozen=True, slots=True)
class RefusedConnection:
    node_id: NodeId


@dataclass(frozen=True, slots=True)
class TimePassed:
    """`at_s` counts only time in which this node itself was awake, so that a sleeper does not accuse the others."""

    at_s: float


@dataclass(frozen=True, slots=True)
class MemberLeft:
    """It said goodbye itself."""

    node_id: NodeId
    at_s: float


@dataclass(frozen=True, slots=True)
class PlacementSeen:
    placement: Placement


@dataclass(frozen=True, slots=True)
class SelfChanged:
    status: NodeStatus


Event = (
    MemberJoined
    | RouteFound
    | HeartbeatHeard
    | MemberVouchedFor
    | MemberHeardOf
    | RefusedConnection
    | TimePassed
    | MemberLeft
    | PlacementSeen
    | SelfChanged
)


def apply(state: ClusterState, event: Event) -> ClusterState:
    """The state after an event. Events of unknown members change nothing."""
    match event:
        case MemberJoined(status, at_s, route, begun_at_s):
            if _has_left_since(state, status, at_s if begun_at_s is None else begun_at_s):
                return state
            route = route or _known_route(state, status)
            return _with_member(state, Member(status, "alive", at_s, met_at_s=at_s, answered_at_s=at_s, route=route))
        case RouteFound(node_id, route):
            member = state.members.get(node_id)
            if member is None or member.route == route:
                return state
            return _with_member(state, replace(member, route=route, rtt_ms=None))
        case HeartbeatHeard(status, at_s, rtt_ms):
            return _heard(state, status, at_s, rtt_ms)
        case MemberVouchedFor(node_id, at_s):
            member = state.members.get(node_id)
            if member is None or member.state == "dead":
                return state
            return _with_member(state, replace(member, heard_at_s=max(member.heard_at_s, at_s - SUSPECT_AFTER_S)))
        case MemberHeardOf(status, at_s, age_s):
            return _heard_of(state, status, at_s, age_s)
        case RefusedConnection(node_id):
            return _refused(state, node_id)
        case TimePassed(at_s):
            return _with_unmet_nodes(_with_aged_members(state, at_s), at_s)
        case MemberLeft(node_id, at_s):
            member = state.members.get(node_id)
            return state if member is None else _with_member(state, replace(member, state="dead", left_at_s=at_s))
        case PlacementSeen(placement):
            return _with_placement(state, newest(state.written, placement))
        case SelfChanged(status):
            return replace(state, self_status=status)
        case _:
            assert_never(event)


def _with_placement(state: ClusterState, held: Placement) -> ClusterState:
    """Nodes that were dead for this one and that another leader has counted on since may be back: they are awaited."""
    if held == state.written:
        return state
    known = {one.dot for one in state.written.all_instances}
    others = [one for one in held.all_instances if one.dot not in known and one.dot.author != state.self_id]
    counted_on = {node_id for one in others if one.state != "failed" for node_id in one.node_ids}
    back = {key for key, one in state.members.items() if key in counted_on and one.is_dead_to_this_side}
    members = {key: one for key, one in state.members.items() if key not in back}
    return replace(state, written=held, members=members)


def _with_member(state: ClusterState, member: Member) -> ClusterState:
    return replace(state, members={**state.members, member.status.identity.node_id: member})


def _has_left_since(state: ClusterState, status: NodeStatus, begun_at_s: float) -> bool:
    """Say whether this boot of a node has said goodbye since a handshake with it began."""
    member = state.members.get(status.identity.node_id)
    if member is None or member.left_at_s is None or member.status.identity.boot_id != status.identity.boot_id:
        return False
    return begun_at_s <= member.left_at_s


def _known_route(state: ClusterState, status: NodeStatus) -> str | None:
    """Return the route of a member that joins again from the same boot."""
    member = state.members.get(status.identity.node_id)
    is_same = member is not None and member.status.identity.boot_id == status.identity.boot_id
    return member.route if member is not None and is_same else None


def _heard(state: ClusterState, status: NodeStatus, at_s: float, rtt_ms: float | None) -> ClusterState:
    member = state.members.get(status.identity.node_id)
    if member is None or member.state == "dead" or member.status.identity.boot_id != status.identity.boot_id:
        return state  # the dead and the restarted come back through a handshake
    newest = status if status.sequence > member.status.sequence else member.status
    alive = replace(member, status=newest, state="alive", heard_at_s=max(at_s, member.heard_at_s), num_refusals=0)
    alive = replace(alive, is_heard_of=True)
    if member.route in _gone_addresses(member.status, newest):
        alive = replace(alive, route=None, rtt_ms=None)
    if rtt_ms is not None:
        alive = replace(alive, rtt_ms=_smoothed(member.rtt_ms, rtt_ms), answered_at_s=at_s)
    return _with_member(state, alive)


def _gone_addresses(old: NodeStatus, new: NodeStatus) -> set[str]:
    """Return the addresses that a node no longer has. A route may also be one that it never named: a forwarded port."""
    return set(old.identity.addresses) - set(new.identity.addresses)


def _heard_of(state: ClusterState, status: NodeStatus, at_s: float, age_s: float) -> ClusterState:
    """Take a passed-on status as a sign of life of when it was said, if it is newer than what is known.

    An old one may go round between others for a while. A living member that does not answer here becomes suspect.
    """
    identity = status.identity
    if identity.node_id == state.self_id:
        return state
    member, said_at_s = state.members.get(identity.node_id), at_s - age_s
    if member is None or (member.state == "dead" and _is_back(status, member)):
        is_silent = age_s >= SUSPECT_AFTER_S
        return state if is_silent else _with_member(state, Member(status, "suspect", said_at_s, met_at_s=at_s))
    if member.state == "dead" or member.status.identity.boot_id != identity.boot_id:
        return state
    if status.sequence <= member.status.sequence:
        return state
    sign_at_s = said_at_s if member.state == "suspect" else min(said_at_s, at_s - SUSPECT_AFTER_S)
    told = replace(member, status=status, word_at_s=max(member.word_at_s, said_at_s))
    is_heard_of = member.is_heard_of or age_s < HEARD_WITHIN_S
    return _with_member(state, replace(told, heard_at_s=max(told.heard_at_s, sign_at_s), is_heard_of=is_heard_of))


def _is_back(status: NodeStatus, dead: Member) -> bool:
    """Say whether a status shows that a dead member lives again."""
    if status.identity.boot_id != dead.status.identity.boot_id:
        return True
    return dead.left_at_s is None and status.sequence > dead.status.sequence


def _smoothed(average: float | None, newest: float) -> float:
    return newest if average is None else (1 - RTT_WEIGHT) * average + RTT_WEIGHT * newest


def _refused(state: ClusterState, node_id: NodeId) -> ClusterState:
    member = state.members.get(node_id)
    if member is None or member.state == "dead":
        return state
    num_refusals = member.num_refusals + 1
    new_state: MemberState = "dead" if num_refusals >= REFUSALS_TO_DIE else "suspect"
    return _with_member(state, replace(member, state=new_state, num_refusals=num_refusals))


def _with_aged_members(state: ClusterState, at_s: float) -> ClusterState:
    aged = {node_id: _aged(member, at_s) for node_id, member in state.members.items()}
    kept = {node_id: member for node_id, member in aged.items() if at_s - member.heard_at_s < FORGET_AFTER_S}
    return state if kept == state.members else replace(state, members=kept)


def _with_unmet_nodes(state: ClusterState, at_s: float) -> ClusterState:
    named = {node_id for instance in state.written.all_instances for node_id in instance.node_ids}
    unmet = named - state.members.keys() - {state.self_id}
    unmet_since_s = {node_id: state.unmet_since_s.get(node_id, at_s) for node_id in unmet}
    patience_s = RESTORED_PATIENCE_S if state.written.is_restored else DEAD_AFTER_S
    missing = frozenset(node_id for node_id, since_s in unmet_since_s.items() if at_s - since_s >= patience_s)
    if unmet_since_s == state.unmet_since_s and missing == state.missing:
        return state
    return replace(state, unmet_since_s=unmet_since_s, missing=missing)


def _aged(member: Member, at_s: float) -> Member:
    silence_s = at_s - member.heard_at_s
    if member.state == "dead":
        return member
    is_heard_of = at_s - member.last_word_at_s < HEARD_WITHIN_S
    if silence_s < SUSPECT_AFTER_S:
        return member if is_heard_of == member.is_heard_of else replace(member, is_heard_of=is_heard_of)
    return replace(member, state="dead" if silence_s >= DEAD_AFTER_S else "suspect", is_heard_of=is_heard_of)
