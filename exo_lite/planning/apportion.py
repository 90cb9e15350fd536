"""Whole shares in proportion to weights: the largest-remainder method (Hamilton's), between bounds."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from fractions import Fraction
from math import floor


def apportion(total: int, weights: Sequence[int], limits: Sequence[int]) -> list[int]:
    """Whole shares that add up to `total`, each at least 1, at most its limit, in proportion to its weight.

    Shares at a bound stay there, the others divide the rest in proportion: share = clamp(level * weight), with the
    one level that adds up. Remainders go to the largest first, ties to the earlier.
    Needs weights above 0, limits of 1 or more and len(weights) <= total <= sum(limits).
    """
    level = _level(total, weights, limits)
    exact = [_clamp(level * weight, limit) for weight, limit in zip(weights, limits, strict=True)]
    shares = [floor(share) for share in exact]
    by_remainder = sorted(range(len(shares)), key=lambda index: (shares[index] - exact[index], index))
    for index in by_remainder[: total - sum(shares)]:
        shares[index] += 1
    return shares


def _clamp(share: Fraction, limit: int) -> Fraction:
    return min(max(share, Fraction(1)), Fraction(limit))


def _level(total: int, weights: Sequence[int], limits: Sequence[int]) -> Fraction:
    """Find the level at which the clamped shares add up to `total`: their sum is piecewise linear in the level."""

    def filled(level: Fraction) -> Fraction:
        one, each = level.denominator, level.numerator
        scaled = sum(min(max(each * weight, one), limit * one) for weight, limit in zip(weights, limits, strict=True))
        return Fraction(scaled, one)

    pairs = zip(weights, limits, strict=True)
    corners = sorted({Fraction(bound, weight) for weight, limit in pairs for bound in (1, limit)})
    above = bisect_left(corners, Fraction(total), key=filled)
    if filled(corners[above]) == total:
        return corners[above]
    low, high = corners[above - 1], corners[above]
    return low + (total - filled(low)) * (high - low) / (filled(high) - filled(low))
