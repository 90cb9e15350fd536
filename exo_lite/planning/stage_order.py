"""The order of stages: which nodes hold a model, in which order, and how many layers each could hold in its place.

All layers are equal, so only three things decide whether a split exists: who comes first (embedding), who comes
last (norm and lm_head) and the layers that all can carry together. Among nodes of one engine, one of more memory can do
all that one of less can. From that follow, for n nodes in time n log n:

- every node that carries a layer in the middle is worth having: it only adds layers;
- where these are more than the model has layers, those that carry the most will do;
- one node alone is needed only where no two can be first and last: a node that holds everything can also be first,
  with anybody last.

Engines differ in what a layer takes. Then the second holds but where only a smaller node has room for an end.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from exo_lite.planning.candidate import Candidate


@dataclass(frozen=True, slots=True)
class PossibleStage:
    """A node at a place in the pipeline, and the number of layers that fit it there."""

    node: Candidate
    capacity: int


StageOrder = tuple[PossibleStage, ...]


def best_order(candidates: Sequence[Candidate], n_layers: int) -> StageOrder:
    """The order to use where a split exists, else the one that carries the most layers; empty if there is none.

    `candidates` stand in rank order, which the order keeps unless only another first or last node fits.
    """
    usable = [one for one in candidates if one.in_middle]
    return _order_of_several(usable[:n_layers], n_layers) or _order_of_one(usable)


def carries(order: StageOrder, n_layers: int) -> bool:
    """Say whether the nodes together can hold every layer of the model."""
    return num_layers_carried(order) >= n_layers


def num_layers_carried(order: StageOrder) -> int:
    return sum(stage.capacity for stage in order)


def _order_of_one(usable: Sequence[Candidate]) -> StageOrder:
    stages = [PossibleStage(one, one.alone) for one in usable if one.alone]
    return (max(stages, key=lambda stage: stage.capacity),) if stages else ()


def _order_of_several(usable: Sequence[Candidate], n_layers: int) -> StageOrder:
    """Order `usable` by rank, but for a first and last node that fit; empty if no two can be that."""
    ends = _ends(usable, n_layers)
    if ends is None:
        return ()
    first, last = ends
    between = [index for index in range(len(usable)) if index not in ends]
    return (
        PossibleStage(usable[first], usable[first].as_first),
        *(PossibleStage(usable[index], usable[index].in_middle) for index in between),
        PossibleStage(usable[last], usable[last].as_last),
    )


def _ends(usable: Sequence[Candidate], n_layers: int) -> tuple[int, int] | None:
    """Indices of the first and the last node: the largest and the smallest with which every layer has a place.

    Where no choice has that, those that carry the most layers. None if no two nodes can be first and last.
    """
    middle = [one.in_middle for one in usable]
    loss_as_first = _losses([one.as_first for one in usable], middle)
    loss_as_last = _losses([one.as_last for one in usable], middle)
    totals = _least_losses(loss_as_first, loss_as_last)
    if not totals:
        return None
    allowed = max(sum(middle) - n_layers, min(totals.values()))
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


def _losses(at_end: Sequence[int], middle: Sequence[int]) -> dict[int, int]:
    """Return, for each node that can be first or last, in rank order, the layers that it gives up for that."""
    return {index: middle[index] - capacity for index, capacity in enumerate(at_end) if capacity}
