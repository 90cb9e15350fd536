"""Memory that processes have in RAM (Linux only)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path


def resident_bytes(pids: Iterable[int]) -> int:
    """Of all together; what they share counts for each. FileNotFoundError where one has ended."""
    return sum(resident_of(Path(f"/proc/{pid}/status").read_text(encoding="ascii")) for pid in pids)


def resident_of(status: str) -> int:
    """Of the text of /proc/PID/status."""
    found = re.search(r"^VmRSS:\s+(\d+) kB$", status, re.MULTILINE)
    assert found, status
    return 1024 * int(found[1])
