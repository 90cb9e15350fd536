"""The strategy `by_memory`: layers in proportion to the memory that each node offers."""

from __future__ import annotations

from exo_lite.planning.apportion import apportion
from exo_lite.planning.lineup import Lineup


def split_by_memory(lineup: Lineup, n_layers: int) -> list[int]:
    """Layers of each node in the line: at least one, never more than fit, else in proportion to its offer.

    Needs a line that carries every layer.
    """
    return apportion(n_layers, [seat.node.memory_bytes for seat in lineup], [seat.capacity for seat in lineup])
