"""The engine that a node computes with, and when two of them give the same numbers."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

DEFAULT_ENGINE = "torch-c"
"""The engine that nodes compute with."""


@dataclass(frozen=True, slots=True)
class NodeEngine:
    """The engine of a node. `numerics` is None until its kernels have been tried."""

    name: str = DEFAULT_ENGINE
    numerics: str | None = None


@dataclass(frozen=True, slots=True)
class Detected:
    """A device that an engine finds on a machine, and what it computes there.

    kind, name: of the device, for people; the processor's name is left to whoever asks. device: as the engine takes it.
    numerics: identifies the numbers that it computes there: of two alike, a token gets the same bits.
    """

    kind: str
    name: str
    device: str
    numerics: str


def are_same_numbers(numerics: Collection[str | None]) -> bool:
    """Say whether shards of these numerics give a token the same bits, whichever of them computes it, and beside what.

    None: the bits depend on what is computed beside it, or are not known yet.
    """
    return None not in numerics and len(set(numerics)) == 1
