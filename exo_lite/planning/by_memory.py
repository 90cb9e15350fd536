"""The strategy `by_memory`: layers in proportion to the memory that each node offers."""

from __future__ import annotations

from exo_lite.planning.apportion import apportion
from exo_lite.planning.stage_order import StageOrder


def split_by_memory(order: StageOrder, n_layers: int) -> list[int]:
    """Layers of each stage: at least one, never more than fit, else in proportion to its offer.

    Needs an order that carries every layer.
    """
    return apportion(n_layers, [stage.node.memory_bytes for stage in order], [stage.capacity for stage in order])
