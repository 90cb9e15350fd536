"""A model's memory as planning needs it: bytes per layer, and bytes per place in the pipeline."""

from __future__ import annotations

from dataclasses import dataclass

from exo_lite.domain.load_options import LoadOptions
from exo_lite.domain.model_spec import ModelSpec
from exo_lite.planning.shard_bytes import edge_weight_bytes, layer_kv_cache_bytes, layer_weight_bytes, working_bytes


@dataclass(frozen=True, slots=True)
class Footprint:
    """A node with k layers takes k * layer_bytes and what its place adds: working space, embedding, norm and head."""

    n_layers: int
    layer_bytes: int
    first_bytes: int
    middle_bytes: int
    last_bytes: int
    only_bytes: int
    """The bytes of a node that holds all layers, first and last."""

    @property
    def model_bytes(self) -> int:
        """The whole model on one node."""
        return self.only_bytes + self.n_layers * self.layer_bytes

    def capacity(self, memory_bytes: int, place_bytes: int) -> int:
        """How many layers a node's memory carries in a place, at most the model's."""
        return min(self.n_layers, max(0, memory_bytes - place_bytes) // self.layer_bytes)


def footprint(spec: ModelSpec, options: LoadOptions) -> Footprint:
    def place_bytes(*, is_first: bool, is_last: bool) -> int:
        edges = edge_weight_bytes(spec, options, is_first=is_first, is_last=is_last)
        return edges + working_bytes(spec, options, is_last=is_last)

    return Footprint(
        n_layers=spec.n_layers,
        layer_bytes=layer_weight_bytes(spec, options) + layer_kv_cache_bytes(spec, options),
        first_bytes=place_bytes(is_first=True, is_last=False),
        middle_bytes=place_bytes(is_first=False, is_last=False),
        last_bytes=place_bytes(is_first=False, is_last=True),
        only_bytes=place_bytes(is_first=True, is_last=True),
    )
