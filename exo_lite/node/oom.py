"""Out-of-memory kills: the kernel's own counters tell of them, and a signal alone does not."""

from __future__ import annotations

from pathlib import Path


def num_oom_kills(root: Path = Path("/")) -> int | None:
    """Count kills since the machine, or the container, started; None if the kernel does not count."""
    counts = [*_of_cgroups(root), *_count(root / "proc/vmstat")]
    return sum(counts) if counts else None


def _of_cgroups(root: Path) -> list[int]:
    """Read the counters of this process's own groups, of either version."""
    found: list[int] = []
    for line in _lines(root / "proc/self/cgroup"):
        hierarchy, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if hierarchy == "0":
            found += _count(root / "sys/fs/cgroup" / path.strip("/") / "memory.events")
        elif "memory" in controllers.split(","):
            found += _count(root / "sys/fs/cgroup/memory" / path.strip("/") / "memory.oom_control")
    return found


def _count(path: Path) -> list[int]:
    words = [line.split() for line in _lines(path)]
    return [int(pair[1]) for pair in words if len(pair) == 2 and pair[0] == "oom_kill" and pair[1].isdigit()]


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
