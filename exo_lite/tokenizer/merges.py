"""Merges of byte-pair encoding: a token is made of two others."""

from __future__ import annotations

from collections.abc import Container
from typing import TypeVar

Part = TypeVar("Part", str, bytes)


def pairs_of(token: Part, parts: Container[Part]) -> list[tuple[Part, Part]]:
    """Every way to cut a token into two of `parts`, the shortest first part first."""
    pairs = ((token[:cut], token[cut:]) for cut in range(1, len(token)))
    return [(left, right) for left, right in pairs if left in parts and right in parts]
