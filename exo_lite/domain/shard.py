"""A contiguous range of decoder layers."""

from __future__ import annotations

from dataclasses import dataclass

from exo_lite.domain.errors import InvalidShard
from exo_lite.domain.ids import ModelId


@dataclass(frozen=True, slots=True)
class Shard:
    """The decoder layers [start_layer, end_layer] of a model that one node holds, both ends inclusive, from 0.

    The first shard also holds the embedding, the last one the final norm and the output head.
    Raises InvalidShard.
    """

    model_id: ModelId
    start_layer: int
    end_layer: int
    n_layers: int

    def __post_init__(self) -> None:
        if not 0 <= self.start_layer <= self.end_layer < self.n_layers:
            raise InvalidShard(
                f"{self.model_id}: layers {self.start_layer}..{self.end_layer} are not within 0..{self.n_layers - 1}"
            )

    @property
    def layers(self) -> range:
        return range(self.start_layer, self.end_layer + 1)

    @property
    def num_layers(self) -> int:
        return self.end_layer - self.start_layer + 1

    @property
    def is_first(self) -> bool:
        return self.start_layer == 0

    @property
    def is_last(self) -> bool:
        return self.end_layer == self.n_layers - 1

    def __str__(self) -> str:
        return f"{self.model_id}[{self.start_layer}..{self.end_layer}]"
