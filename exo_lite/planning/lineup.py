"""The line-up: which nodes hold a model, in which order, and how many layers each could hold in its place.

All layers are equal, so only three things decide whether a split exists: who comes first (embedding), who comes
last (norm and head) and the layers that all can carry together. A node of more memory can do all that one of less
can. From that follow, for n nodes in time n log n:

- every node that carries a layer in the middle is worth having: it only adds layers;
- where these are more than the model has layers, the largest will do;
- one node alone is needed only where no two can be first and last: a node that holds everything can also be first,
  with anybody last.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from exo_lite.domain.plan import NodeOffer
from exo_lite.planning.footprint import Footprint


@dataclass(frozen=True, slots=True)
class Seat:
    """A node at its place in the line, and the layers that fit it there."""

    offer: NodeOffer
    capacity: int


Lineup = tuple[Seat, ...]


def ranked(offers: Sequence[NodeOffer]) -> list[NodeOffer]:
    """Sort offers by memory, the most first, ties by id."""
    return sorted(offers, key=lambda offer: (-offer.memory_bytes, offer.node_id))


def best_lineup(offers: Sequence[NodeOffer], sizes: Footprint) -> Lineup:
    """The line to use where a split exists, else the one that carries the most layers; empty if there is none.

    `offers` stand in rank order, which the line keeps unless only another first or last node fits.
    """
    usable = [offer for offer in offers if sizes.capacity(offer.memory_bytes, sizes.middle_bytes)]
    return _shared_lineup(usable[: sizes.n_layers], sizes) or _single_lineup(usable, sizes)


def carries(lineup: Lineup, sizes: Footprint) -> bool:
    """Say whether the nodes together can hold every layer of the model."""
    return num_layers_carried(lineup) >= sizes.n_layers


def num_layers_carried(lineup: Lineup) -> int:
    return sum(seat.capacity for seat in lineup)


def _single_lineup(usable: Sequence[NodeOffer], sizes: Footprint) -> Lineup:
    if not usable:
        return ()
    capacity = sizes.capacity(usable[0].memory_bytes, sizes.only_bytes)
    return (Seat(usable[0], capacity),) if capacity else ()


def _shared_lineup(usable: Sequence[NodeOffer], sizes: Footprint) -> Lineup:
    """Order `usable` by rank, but for a first and last node that fit; empty if no two can be that."""
    ends = _ends(usable, sizes)
    if ends is None:
        return ()
    first, last = ends
    between = [index for index in range(len(usable)) if index not in ends]
    return (
        Seat(usable[first], sizes.capacity(usable[first].memory_bytes, sizes.first_bytes)),
        *(Seat(usable[index], sizes.capacity(usable[index].memory_bytes, sizes.middle_bytes)) for index in between),
        Seat(usable[last], sizes.capacity(usable[last].memory_bytes, sizes.last_bytes)),
    )


def _ends(usable: Sequence[NodeOffer], sizes: Footprint) -> tuple[int, int] | None:
    """Indices of the first and the last node: the largest and the smallest with which every layer has a place.

    Where no choice has that, those that carry the most layers. None if no two nodes can be first and last.
    """
    middle = [sizes.capacity(offer.memory_bytes, sizes.middle_bytes) for offer in usable]
    loss_as_first = _losses(usable, sizes, sizes.first_bytes, middle)
    loss_as_last = _losses(usable, sizes, sizes.last_bytes, middle)
    totals = _least_losses(loss_as_first, loss_as_last)
    if not totals:
        return None
    allowed = max(sum(middle) - sizes.n_layers, min(totals.values()))
    first = next(index for index, total in totals.items() if total <= allowed)
    allowed_as_last = allowed - loss_as_first[first]
    last = max(index for index, loss in loss_as_last.items() if index != first and loss <= allowed_as_last)
    return first, last


def _least_losses(loss_as_first: Mapping[int, int], loss_as_last: Mapping[int, int]) -> dict[int, int]:
    """Return, for each node that can be first, the layers that it and the cheapest other last node give up together."""
    two_cheapest = sorted(loss_as_last, key=loss_as_last.__getitem__)[:2]
    totals = {}
    for first, loss in loss_as_first.items():
        last = next((index for index in two_cheapest if index != first), None)
        if last is not None:
            totals[first] = loss + loss_as_last[last]
    return totals


def _losses(usable: Sequence[NodeOffer], sizes: Footprint, place_bytes: int, middle: Sequence[int]) -> dict[int, int]:
    """Return, for each node that can be first or last, in rank order, the layers that it gives up for that."""
    at_end = [sizes.capacity(offer.memory_bytes, place_bytes) for offer in usable]
    return {index: middle[index] - capacity for index, capacity in enumerate(at_end) if capacity}
