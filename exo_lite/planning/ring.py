"""The choice of nodes when not every pair of them can talk.

The stages are a ring: each opens a stream to the one before it, the first one to the last. So the nodes, in order, have
to be a cycle of links that work: a Hamiltonian cycle, which takes a search. It is short: a node that reaches all others
fits into every cycle, so only those with a broken link are tried in and out, and the search is bounded.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from itertools import combinations

from exo_lite.domain.links import Link, link
from exo_lite.planning.candidate import Candidate
from exo_lite.planning.stage_order import PossibleStage, StageOrder, best_order, carries

MAX_UNCERTAIN = 8
"""Nodes with a broken link that are tried in and out; the smallest beyond that stay out."""
MAX_SEARCH_STEPS = 20_000

Ring = tuple[Candidate, ...]
"""Candidates in the order of the stages; the last one is a neighbour of the first."""


def best_ring(candidates: Sequence[Candidate], n_layers: int, broken: Collection[Link]) -> StageOrder:
    """The order to use where all neighbours reach each other: of as many nodes as can be, else of one; else empty.

    `candidates` stand in rank order. The first stage is, if possible, one that every node reaches.
    """
    usable = [one for one in candidates if one.in_middle]
    search = _Search(broken)
    for members in _memberships(usable[:n_layers], broken):
        order = _on_ring(members, n_layers, search)
        if order:
            return order
    alone = (best_order([one], n_layers) for one in usable)
    return next((order for order in alone if carries(order, n_layers)), ())


def _memberships(usable: Sequence[Candidate], broken: Collection[Link]) -> Iterator[list[Candidate]]:
    """Sets of two nodes and more, the largest first, in rank order."""
    ids = {node.node_id for node in usable}
    within = [pair for pair in broken if pair <= ids]
    cut_off = [node for node in usable if any(node.node_id in pair for pair in within)]
    uncertain, dropped = cut_off[:MAX_UNCERTAIN], cut_off[MAX_UNCERTAIN:]
    for count in range(len(uncertain), -1, -1):
        for kept in combinations(uncertain, count):
            left_out = [*dropped, *(node for node in uncertain if node not in kept)]
            members = [node for node in usable if node not in left_out]
            if len(members) > 1:
                yield members


def _on_ring(members: Sequence[Candidate], n_layers: int, search: _Search) -> StageOrder:
    """An order of exactly these nodes that carries the model; empty if none is found."""
    if sum(one.in_middle for one in members) < n_layers:
        return ()
    for cycle in search.cycles(members):
        for ring in sorted(_orders(cycle), key=lambda ring: search.num_broken(ring[0])):
            order = _stages(ring)
            if carries(order, n_layers):
                return order
    return ()


def _orders(cycle: Ring) -> Iterator[Ring]:
    """Every place where a cycle can begin, in both directions."""
    for direction in (cycle, (cycle[0], *cycle[:0:-1])):
        for start in range(len(cycle)):
            yield (*direction[start:], *direction[:start])


def _stages(ring: Ring) -> StageOrder:
    """Empty where the first or the last has no room for what comes with its place."""
    first, *between, last = ring
    stages = (
        PossibleStage(first, first.as_first),
        *(PossibleStage(one, one.in_middle) for one in between),
        PossibleStage(last, last.as_last),
    )
    return stages if all(stage.capacity for stage in stages) else ()


class _Search:
    """A search for cycles, of at most MAX_SEARCH_STEPS steps."""

    def __init__(self, broken: Collection[Link]) -> None:
        self._broken = broken
        self._steps_left = MAX_SEARCH_STEPS

    def num_broken(self, node: Candidate) -> int:
        return sum(node.node_id in pair for pair in self._broken)

    def cycles(self, members: Sequence[Candidate]) -> Iterator[Ring]:
        """Cycles through all of `members`, which begin with the first of them."""
        yield from self._extended((members[0],), list(members[1:]))

    def _extended(self, path: Ring, rest: list[Candidate]) -> Iterator[Ring]:
        self._steps_left -= 1
        if self._steps_left < 0:
            return
        if not rest:
            if self._are_linked(path[-1], path[0]):
                yield path
            return
        for node in rest:
            if self._are_linked(path[-1], node):
                yield from self._extended((*path, node), [one for one in rest if one is not node])

    def _are_linked(self, one: Candidate, other: Candidate) -> bool:
        return link(one.node_id, other.node_id) not in self._broken
