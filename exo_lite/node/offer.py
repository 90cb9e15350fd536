"""This node's offer: the memory and threads that machine, container and flags leave for models at the moment."""

from __future__ import annotations

import math
import os
import resource
from dataclasses import dataclass

import psutil

from exo_lite.domain.units import format_bytes
from exo_lite.node.cgroups import CgroupLimits, Cgroups

MIN_RESERVE_BYTES = 1024**3
RESERVE_SHARE = 0.1
"""The share of the free memory that is left to everything else on the machine."""
GROUP_RESERVE_BYTES = 512 * 1024**2
"""The part of a container's memory for the daemon and for what a worker takes beside its model."""


@dataclass(frozen=True, slots=True)
class Offer:
    memory_bytes: int
    threads: int
    warning: str | None = None
    """A warning if `--memory` is more than there is."""


class MachineOffer:
    """Reads at the start what is free on the machine, and each time what limits there are.

    What is free changes with each model and each program; limits change when somebody changes them.
    """

    def __init__(self, memory_bytes: int | None, threads: int | None, cgroups: Cgroups | None = None) -> None:
        self._wanted_bytes = memory_bytes
        self._wanted_threads = threads
        self._cgroups = cgroups or Cgroups()
        self._free_bytes = free_less_reserve()
        self._used_at_start_bytes = self._cgroups.read().memory_used_bytes

    def read(self) -> Offer:
        limits = self._cgroups.read()
        group_bytes = self._left_by_group(limits)
        left_bytes = min(one for one in (self._free_bytes, group_bytes, address_space_bytes()) if one is not None)
        threads = self._wanted_threads or usable_cores(limits)
        if self._wanted_bytes is None:
            return Offer(left_bytes, threads)
        is_too_much = group_bytes is not None and self._wanted_bytes > group_bytes
        return Offer(self._wanted_bytes, threads, self._warning(group_bytes or 0) if is_too_much else None)

    def _left_by_group(self, limits: CgroupLimits) -> int | None:
        """None where nothing is limited."""
        if limits.memory_bytes is None:
            return None
        reserve = max(GROUP_RESERVE_BYTES, int(limits.memory_bytes * RESERVE_SHARE))
        return max(0, limits.memory_bytes - self._used_at_start_bytes - reserve)

    def _warning(self, group_bytes: int) -> str:
        return (
            f"--memory {format_bytes(self._wanted_bytes or 0)} is more than the {format_bytes(group_bytes)} that this "
            "container or service leaves to models: the kernel would kill the worker of a model that large"
        )


def free_less_reserve() -> int:
    """Return the machine's free memory, less a reserve for the rest of it."""
    free = psutil.virtual_memory().available
    return max(0, free - max(MIN_RESERVE_BYTES, int(free * RESERVE_SHARE)))


def address_space_bytes() -> int | None:
    """Return the bytes that `ulimit -v` leaves to a worker's model; None without such a limit."""
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    return None if soft == resource.RLIM_INFINITY else max(0, soft - MIN_RESERVE_BYTES)


def usable_cores(limits: CgroupLimits) -> int:
    """Cores that this process may keep busy: physical ones, those it is bound to, and its quota's worth."""
    counts = [psutil.cpu_count(logical=False), os.cpu_count()]
    if hasattr(os, "sched_getaffinity"):
        counts.append(len(os.sched_getaffinity(0)))
    if limits.num_cpus is not None:
        counts.append(math.ceil(limits.num_cpus))
    return max(1, min((count for count in counts if count), default=1))
