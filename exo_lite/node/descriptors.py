"""How many files and connections this process may have open at once."""

from __future__ import annotations

import resource
from contextlib import suppress

WANTED_DESCRIPTORS = (65_536, 10_240, 4_096)
"""The first of these that the system allows; macOS takes no more than 10,240, whatever its hard limit says."""

MAX_PEER_CONNECTIONS = 1024


def raise_descriptor_limit() -> int:
    """Raise the soft limit as far as it is of use, and return the one that holds now. Workers inherit it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for wanted in WANTED_DESCRIPTORS:
        if _is_enough(soft, wanted):
            break
        allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        if allowed <= soft:
            break
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
            return allowed
    return WANTED_DESCRIPTORS[0] if soft == resource.RLIM_INFINITY else soft


def max_peer_connections() -> int:
    """How many connections peers may open to this process: an eighth of its descriptors, two for each of some tens."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MAX_PEER_CONNECTIONS if soft == resource.RLIM_INFINITY else max(8, min(MAX_PEER_CONNECTIONS, soft // 8))


def _is_enough(soft: int, wanted: int) -> bool:
    return soft == resource.RLIM_INFINITY or soft >= wanted
