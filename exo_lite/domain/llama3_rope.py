"""Llama 3.1's rule for positions beyond the trained length, over whatever array type a caller computes in."""

from __future__ import annotations

from typing import Protocol, Self, TypeVar

from exo_lite.domain.model_spec import RopeScaling


class Numbers(Protocol):
    """An array of floats, such as numpy's or torch's."""

    def __add__(self, other: Self, /) -> Self: ...
    def __sub__(self, other: float, /) -> Self: ...
    def __rsub__(self, other: float, /) -> Self: ...
    def __truediv__(self, other: float, /) -> Self: ...
    def clip(self, low: float, high: float, /) -> Self: ...


AnyNumbers = TypeVar("AnyNumbers", bound=Numbers)


def llama3_stretch(turns: AnyNumbers, scaling: RopeScaling) -> AnyNumbers:
    """Return what each frequency is multiplied by: 1 for fast pairs, 1 / factor for slow ones, between them a blend.

    turns: how often each pair of a head turns within `original_max_position_embeddings`. Keeps shape and dtype.
    """
    width = scaling.high_freq_factor - scaling.low_freq_factor
    is_fast = ((turns - scaling.low_freq_factor) / width).clip(0.0, 1.0)
    return (1 - is_fast) / scaling.factor + is_fast
