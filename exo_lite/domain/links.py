"""Links between nodes: pure functions of the nodes' own reports.

A link is a pair of nodes. It counts as broken from the moment that one of the two says that the other does not answer,
while somebody else still hears of both.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from exo_lite.domain.cluster_state import ClusterState
from exo_lite.domain.heartbeat import RelayedStatus
from exo_lite.domain.ids import NodeId

Link = frozenset[NodeId]
"""Two nodes."""


@dataclass(frozen=True, slots=True)
class KnownLinks:
    """Links that a plan cannot use, and those that it had better leave alone: they failed a moment ago."""

    broken: frozenset[Link] = frozenset()
    doubtful: frozenset[Link] = frozenset()


ALL_WORK = KnownLinks()

RELAY_AFTER_S = 3.0
"""Nodes that have just been met may still be shaking hands with each other."""


def link(one: NodeId, other: NodeId) -> Link:
    return frozenset((one, other))


def direct_links(state: ClusterState, at_s: float) -> tuple[tuple[NodeId, ...], tuple[NodeId, ...]]:
    """The living members that answer this node itself, and those that do not."""
    living = sorted(node_id for node_id, member in state.members.items() if member.state != "dead")
    reached = tuple(node_id for node_id in living if state.members[node_id].is_reached(at_s))
    return reached, tuple(node_id for node_id in living if node_id not in reached)


def relayed_to(state: ClusterState, node_id: NodeId, at_s: float) -> tuple[RelayedStatus, ...]:
    """The statuses to pass on to a member: of living nodes that it does not reach."""
    receiver = state.members.get(node_id)
    if receiver is None or at_s - receiver.met_at_s < RELAY_AFTER_S:
        return ()
    return tuple(
        RelayedStatus(member.status, max(0.0, at_s - member.last_word_at_s))
        for other_id, member in state.members.items()
        if other_id not in (node_id, *receiver.status.reached)
        and member.state != "dead"
        and at_s - member.met_at_s >= RELAY_AFTER_S
    )


def silent_links(state: ClusterState) -> frozenset[Link]:
    """Every link of two living nodes of which one says that the other does not answer."""
    living = state.living
    return frozenset(
        link(node_id, other_id)
        for node_id, status in living.items()
        for other_id in status.unreached
        if other_id in living
    )


def broken_links(state: ClusterState) -> frozenset[Link]:
    """Silent links whose two nodes are heard of all the same.

    A node that nobody reaches, or that has not been heard of lately, is about to be lost instead.
    """
    silent = silent_links(state)
    if not silent:
        return silent
    quiet = {node_id for node_id, member in state.members.items() if not member.is_heard_of}
    heard = _connected(state.self_id, state.living, silent) - quiet
    return frozenset(pair for pair in silent if pair <= heard)


def known_links(state: ClusterState, doubtful: Collection[Link] = ()) -> KnownLinks:
    """Return the links that a plan must avoid. A link to a node that nobody reaches is doubtful."""
    broken = broken_links(state)
    return KnownLinks(broken, (frozenset(doubtful) | silent_links(state)) - broken)


def _connected(start: NodeId, nodes: Collection[NodeId], silent: Collection[Link]) -> set[NodeId]:
    seen, pending = {start}, [start]
    while pending:
        node_id = pending.pop()
        nearer = {other for other in nodes if other not in seen and link(node_id, other) not in silent}
        seen |= nearer
        pending.extend(nearer)
    return seen


def next_hop(state: ClusterState, target: NodeId) -> NodeId | None:
    """The node to send to for `target`: itself where it answers, else one on the shortest way; None without any."""
    living = state.living
    ways: dict[NodeId, NodeId | None] = {state.self_id: None}
    pending = deque([state.self_id])
    while pending:
        node_id = pending.popleft()
        if node_id == target:
            return ways[node_id]
        for other_id in sorted(living):
            if other_id not in ways and other_id not in living[node_id].unreached:
                ways[other_id] = ways[node_id] or other_id
                pending.append(other_id)
    return None


def unreachable(names: tuple[str, str]) -> str:
    return f"{names[0]} and {names[1]} cannot reach each other"


def link_names(links: Collection[Link], names: Mapping[NodeId, str]) -> list[tuple[str, str]]:
    """Return the names of both ends of each link, sorted."""
    ends = [sorted(names.get(node_id, str(node_id)) for node_id in pair) for pair in links]
    return sorted((first, second) for first, second in ends)
