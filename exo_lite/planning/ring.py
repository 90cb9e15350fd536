"""The choice of nodes when not every pair of them can talk.

The stages are a ring: each opens a stream to the one before it, the first one to the last. So the nodes, in order, have
to be a cycle of links that work: a Hamiltonian cycle, which takes a search. It is short: a node that reaches all others
fits into every cycle, so only those with a broken link are tried in and out, and the search is bounded.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from itertools import combinations

from exo_lite.domain.links import Link, link
from exo_lite.domain.plan import NodeOffer
from exo_lite.planning.footprint import Footprint
from exo_lite.planning.lineup import Lineup, Seat, best_lineup, carries

MAX_UNCERTAIN = 8
"""Nodes with a broken link that are tried in and out; the smallest beyond that stay out."""
MAX_SEARCH_STEPS = 20_000

Ring = tuple[NodeOffer, ...]
"""Offers in the order of the stages; the last one is a neighbour of the first."""


def best_ring(offers: Sequence[NodeOffer], sizes: Footprint, broken: Collection[Link]) -> Lineup:
    """The line to use where all neighbours reach each other: of as many nodes as can be, else of one; else empty.

    `offers` stand in rank order. The head is, if possible, one that every node reaches.
    """
    usable = [offer for offer in offers if sizes.capacity(offer.memory_bytes, sizes.middle_bytes)]
    search = _Search(broken)
    for members in _memberships(usable[: sizes.n_layers], broken):
        lineup = _on_ring(members, sizes, search)
        if lineup:
            return lineup
    alone = (best_lineup([offer], sizes) for offer in usable)
    return next((lineup for lineup in alone if carries(lineup, sizes)), ())


def _memberships(usable: Sequence[NodeOffer], broken: Collection[Link]) -> Iterator[list[NodeOffer]]:
    """Sets of two nodes and more, the largest first, in rank order."""
    ids = {offer.node_id for offer in usable}
    within = [pair for pair in broken if pair <= ids]
    cut_off = [offer for offer in usable if any(offer.node_id in pair for pair in within)]
    uncertain, dropped = cut_off[:MAX_UNCERTAIN], cut_off[MAX_UNCERTAIN:]
    for count in range(len(uncertain), -1, -1):
        for kept in combinations(uncertain, count):
            left_out = [*dropped, *(offer for offer in uncertain if offer not in kept)]
            members = [offer for offer in usable if offer not in left_out]
            if len(members) > 1:
                yield members


def _on_ring(members: Sequence[NodeOffer], sizes: Footprint, search: _Search) -> Lineup:
    """A line of exactly these nodes that carries the model; empty if none is found."""
    if sum(sizes.capacity(one.memory_bytes, sizes.middle_bytes) for one in members) < sizes.n_layers:
        return ()
    for cycle in search.cycles(members):
        for ring in sorted(_orders(cycle), key=lambda ring: search.num_broken(ring[0])):
            lineup = _seats(ring, sizes)
            if carries(lineup, sizes):
                return lineup
    return ()


def _orders(cycle: Ring) -> Iterator[Ring]:
    """Every place where a cycle can begin, in both directions."""
    for direction in (cycle, (cycle[0], *cycle[:0:-1])):
        for start in range(len(cycle)):
            yield (*direction[start:], *direction[:start])


def _seats(ring: Ring, sizes: Footprint) -> Lineup:
    """Empty where the first or the last has no room for what comes with its place."""
    places = [sizes.first_bytes, *[sizes.middle_bytes] * (len(ring) - 2), sizes.last_bytes]
    seats = tuple(
        Seat(offer, sizes.capacity(offer.memory_bytes, place)) for offer, place in zip(ring, places, strict=True)
    )
    return seats if all(seat.capacity for seat in seats) else ()


class _Search:
    """A search for cycles, of at most MAX_SEARCH_STEPS steps."""

    def __init__(self, broken: Collection[Link]) -> None:
        self._broken = broken
        self._steps_left = MAX_SEARCH_STEPS

    def num_broken(self, offer: NodeOffer) -> int:
        return sum(offer.node_id in pair for pair in self._broken)

    def cycles(self, members: Sequence[NodeOffer]) -> Iterator[Ring]:
        """Cycles through all of `members`, which begin with the first of them."""
        yield from self._extended((members[0],), list(members[1:]))

    def _extended(self, path: Ring, rest: list[NodeOffer]) -> Iterator[Ring]:
        self._steps_left -= 1
        if self._steps_left < 0:
            return
        if not rest:
            if self._are_linked(path[-1], path[0]):
                yield path
            return
        for offer in rest:
            if self._are_linked(path[-1], offer):
                yield from self._extended((*path, offer), [one for one in rest if one is not offer])

    def _are_linked(self, one: NodeOffer, other: NodeOffer) -> bool:
        return link(one.node_id, other.node_id) not in self._broken
