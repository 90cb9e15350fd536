"""The bytes that a model takes of a node, reduced to what planning needs: per layer, and per place in the line."""

from __future__ import annotations

from dataclasses import dataclass

from exo_lite.domain.shard import Shard


@dataclass(frozen=True, slots=True)
class ShardBytes:
    """The memory that one shard takes on its node."""

    weight_bytes: int
    kv_cache_bytes: int
    working_bytes: int

    @property
    def memory_bytes(self) -> int:
        return self.weight_bytes + self.kv_cache_bytes + self.working_bytes


@dataclass(frozen=True, slots=True)
class Footprint:
    """The memory that a model takes with one engine, under its load options.

    A node with k layers takes k times `layer` and what its place adds: working space, embedding, norm and output head.
    `only` is the place of a node that is first and last, with all layers. lm_head_bytes: weights of the output head.
    """

    n_layers: int
    layer: ShardBytes
    first: ShardBytes
    middle: ShardBytes
    last: ShardBytes
    only: ShardBytes
    lm_head_bytes: int

    @property
    def layer_bytes(self) -> int:
        return self.layer.memory_bytes

    @property
    def first_bytes(self) -> int:
        return self.first.memory_bytes

    @property
    def middle_bytes(self) -> int:
        return self.middle.memory_bytes

    @property
    def last_bytes(self) -> int:
        return self.last.memory_bytes

    @property
    def only_bytes(self) -> int:
        return self.only.memory_bytes

    @property
    def model_bytes(self) -> int:
        """The memory of the whole model on one node."""
        return self.only_bytes + self.n_layers * self.layer_bytes

    def of(self, shard: Shard) -> ShardBytes:
        """Return the memory that a shard takes."""
        place, count = self._place(shard), shard.num_layers
        return ShardBytes(
            weight_bytes=place.weight_bytes + count * self.layer.weight_bytes,
            kv_cache_bytes=place.kv_cache_bytes + count * self.layer.kv_cache_bytes,
            working_bytes=place.working_bytes + count * self.layer.working_bytes,
        )

    def _place(self, shard: Shard) -> ShardBytes:
        if shard.is_first:
            return self.only if shard.is_last else self.first
        return self.last if shard.is_last else self.middle

    def capacity(self, memory_bytes: int, place_bytes: int) -> int:
        """How many layers a node's memory carries in a place, at most the model's."""
        return min(self.n_layers, max(0, memory_bytes - place_bytes) // self.layer_bytes)
