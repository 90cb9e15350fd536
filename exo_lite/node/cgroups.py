"""The limits that control groups set, as in a container or a service: Linux's cgroups v1 and v2.

Documents: cgroup-v2.rst and cgroup-v1/memory.rst of the kernel, cgroups(7), proc(5). Nothing is read but files under a
root that tests put elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

NO_LIMIT_BYTES = 2**60
"""Version 1 writes a number near 2^63 where there is no limit."""


@dataclass(frozen=True, slots=True)
class CgroupLimits:
    """The tightest of a process's own group and those that hold it; None where nothing is limited."""

    memory_bytes: int | None = None
    memory_used_bytes: int = 0
    """The memory used by the group with that limit, without files that the kernel would drop."""
    num_cpus: float | None = None


class Cgroups:
    """The groups of this process. They are looked up once; their limits are read anew each time."""

    def __init__(self, root: Path = Path("/")) -> None:
        self._unified, self._by_controller = _own_folders(root)

    def read(self) -> CgroupLimits:
        memory_bytes, used_bytes = self._memory()
        return CgroupLimits(memory_bytes, used_bytes, min(self._cpus(), default=None))

    def _memory(self) -> tuple[int | None, int]:
        limits = [(limit, used) for limit, used in self._memory_limits() if limit < NO_LIMIT_BYTES]
        if not limits:
            return None, 0
        return min(limits, key=lambda one: one[0] - one[1])

    def _memory_limits(self) -> Iterator[tuple[int, int]]:
        """Limit and use of each group that has a limit."""
        for folder in self._unified:
            used = (_number(folder / "memory.current") or 0) - _statistic(folder, "inactive_file")
            for name in ("memory.max", "memory.high"):
                if (limit := _number(folder / name)) is not None:
                    yield limit, max(0, used)
        for folder in self._by_controller.get("memory", ()):
            used = (_number(folder / "memory.usage_in_bytes") or 0) - _statistic(folder, "total_inactive_file")
            limits = (_number(folder / "memory.limit_in_bytes"), _statistic(folder, "hierarchical_memory_limit"))
            for limit in limits:  # the second counts groups that a container does not see
                if limit:
                    yield limit, max(0, used)

    def _cpus(self) -> Iterator[float]:
        for folder in self._unified:
            quota, _, period = _text(folder / "cpu.max").partition(" ")
            if quota.isdigit() and period.isdigit() and int(period):
                yield int(quota) / int(period)
        for folder in self._by_controller.get("cpu", ()):
            quota_us, period_us = _number(folder / "cpu.cfs_quota_us"), _number(folder / "cpu.cfs_period_us")
            if quota_us is not None and quota_us > 0 and period_us:
                yield quota_us / period_us


def _own_folders(root: Path) -> tuple[list[Path], dict[str, list[Path]]]:
    """This process's groups as folders, its own first: of version 2, and of each controller of version 1."""
    unified: list[Path] = []
    by_controller: dict[str, list[Path]] = {}
    mounts = list(_mounts(root))
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        for controller in controllers.split(","):
            for mount in mounts:
                if mount.controllers is None and not controller:
                    unified = unified or _up_from(mount, path)
                elif mount.controllers is not None and controller in mount.controllers:
                    by_controller.setdefault(controller, _up_from(mount, path))
    return unified, by_controller


@dataclass(frozen=True, slots=True)
class _Mount:
    """A mounted hierarchy, `base` being the group that stands at `folder`. Version 2 has no list of controllers."""

    folder: Path
    base: str
    controllers: frozenset[str] | None


def _mounts(root: Path) -> Iterator[_Mount]:
    for line in _text(root / "proc/self/mountinfo").splitlines():
        fields, _, described = line.partition(" - ")
        before, after = fields.split(), described.split()
        if len(before) < 5 or len(after) < 3 or after[0] not in ("cgroup", "cgroup2"):
            continue
        controllers = None if after[0] == "cgroup2" else frozenset(after[2].split(","))
        yield _Mount(root / _unescaped(before[4]).lstrip("/"), _unescaped(before[3]), controllers)


def _up_from(mount: _Mount, path: str) -> list[Path]:
    """List a group's folder and those above it, up to the mounted one."""
    group, base = PurePosixPath(path), PurePosixPath(mount.base)
    inside = group.relative_to(base).parts if group.is_relative_to(base) else ()
    if ".." in inside or not mount.folder.joinpath(*inside).is_dir():
        inside = ()
    return [mount.folder.joinpath(*inside[:depth]) for depth in range(len(inside), -1, -1)]


def _unescaped(path: str) -> str:
    """mountinfo writes spaces and the like as octal numbers."""
    return path.replace("\\040", " ").replace("\\011", "\t").replace("\\134", "\\")


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""  # not Linux, or not this version


def _number(path: Path) -> int | None:
    """None for `max`, or where there is no such file."""
    text = _text(path)
    return int(text) if text.lstrip("-").isdigit() else None


def _statistic(folder: Path, name: str) -> int:
    for line in _text(folder / "memory.stat").splitlines():
        key, _, value = line.partition(" ")
        if key == name and value.isdigit():
            return int(value)
    return 0
