"""A node that may hold layers, with what the model takes of it at each place in the pipeline."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from exo_lite.domain.footprint import Footprint
from exo_lite.domain.ids import NodeId
from exo_lite.domain.plan import NodeOffer

FootprintOf = Callable[[str], Footprint]
"""Says what a model takes with the engine of this name."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """`sizes`: of the engine that this node computes with."""

    offer: NodeOffer
    sizes: Footprint

    @property
    def node_id(self) -> NodeId:
        return self.offer.node_id

    @property
    def name(self) -> str:
        return self.offer.name

    @property
    def memory_bytes(self) -> int:
        return self.offer.memory_bytes

    @property
    def as_first(self) -> int:
        """Layers that it carries beside the embedding."""
        return self.sizes.capacity(self.memory_bytes, self.sizes.first_bytes)

    @property
    def in_middle(self) -> int:
        """Layers that it carries between others."""
        return self.sizes.capacity(self.memory_bytes, self.sizes.middle_bytes)

    @property
    def as_last(self) -> int:
        """Layers that it carries beside the output head."""
        return self.sizes.capacity(self.memory_bytes, self.sizes.last_bytes)

    @property
    def alone(self) -> int:
        """Layers that it carries beside all that a model has."""
        return self.sizes.capacity(self.memory_bytes, self.sizes.only_bytes)


def ranked(offers: Sequence[NodeOffer], footprint_of: FootprintOf) -> list[Candidate]:
    """Candidates by the layers that they carry, then by memory offered, the most first, ties by id."""
    candidates = [Candidate(offer, footprint_of(offer.engine)) for offer in offers]
    return sorted(candidates, key=lambda one: (-one.in_middle, -one.memory_bytes, one.node_id))
