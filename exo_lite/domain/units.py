"""Sizes as people write and read them."""

from __future__ import annotations

import re
from decimal import Decimal
from fractions import Fraction
from math import ceil

from exo_lite.domain.errors import InvalidRequest

_BINARY_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")
_UNIT_BYTES = {
    "": 1,
    "b": 1,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "tb": 10**12,
    "kib": 2**10,
    "mib": 2**20,
    "gib": 2**30,
    "tib": 2**40,
}
_SIZE = re.compile(r"\s*([0-9]{1,20}(?:\.[0-9]{1,20})?)\s*([a-z]{0,3})\s*", re.IGNORECASE)
_MAX_BYTES = 2**63 - 1


def format_bytes(num_bytes: int, *, round_up: bool = False) -> str:
    """`1.5 GiB`: binary units, one decimal from KiB on, to the nearest or never less than `num_bytes`."""
    if abs(num_bytes) < 1024:
        return f"{num_bytes} B"
    rounded = ceil if round_up else round
    power = 1
    while abs(rounded(Fraction(10 * num_bytes, 1024**power))) >= 10240 and power < len(_BINARY_UNITS) - 1:
        power += 1
    return f"{rounded(Fraction(10 * num_bytes, 1024**power)) / 10:.1f} {_BINARY_UNITS[power]}"


def parse_bytes(text: str) -> int:
    """Bytes of `6GiB`, `1.5 GB`, `512MiB` or a plain count, in any case; parts of a byte are dropped.

    Raises InvalidRequest.
    """
    match = _SIZE.fullmatch(text)
    unit_bytes = _UNIT_BYTES.get(match[2].lower()) if match else None
    if match is None or unit_bytes is None:
        raise InvalidRequest(
            f"{text!r} is not a size: write a number and B, KB, MB, GB, TB, KiB, MiB, GiB or TiB, such as 6GiB"
        )
    num_bytes = int(Decimal(match[1]) * unit_bytes)
    if num_bytes > _MAX_BYTES:
        raise InvalidRequest(f"{text!r} is more than {_MAX_BYTES} bytes, the largest size there is")
    return num_bytes
