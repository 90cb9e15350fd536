"""The sizes of the integer weights' format, written once: for the C kernels, torch's and the footprint. Without torch.

quantized.py says what the format is.
"""

from __future__ import annotations

from typing import Literal

Kind = Literal["int8", "int4"]

TILE = 16
"""Output channels that stand together; a matrix is padded to whole tiles."""
GROUP_SIZE = 32
"""Neighbouring inputs that share a step and a minimum in int4; every channel is padded to whole groups."""
WEIGHT_OFFSET = 128
"""Added to the integers of weights: processors multiply unsigned by signed bytes."""
STEP_PARTS = 16
"""Parts of a weight's unit that an int4 step counts in."""
MAX_Q = {1: 127, 2: 32512}
"""The greatest integer of an activation of so many bytes; 32512 = 127 · 256: its high byte fits an int8."""


def padded(size: int, unit: int) -> int:
    """The next multiple of a unit."""
    return -(-size // unit) * unit
