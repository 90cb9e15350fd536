"""Cores that stay awake while steps come: a stage waits for most of each, and slept through that, it computes slower.

Linux grants a bound on how long a core may take to wake up for as long as the file stays open to which it was written:
https://docs.kernel.org/power/pm_qos_interface.html.
"""

from __future__ import annotations

import logging
import sys
from io import FileIO
from pathlib import Path
from threading import Lock

log = logging.getLogger(__name__)

LATENCY_FILE = Path("/dev/cpu_dma_latency")
IDLE_DRIVER_FILE = Path("/sys/devices/system/cpu/cpuidle/current_driver")

MAX_WAKE_UP_US = 10
"""Allows the shallow sleep, in which a core keeps its caches."""
VIRTUAL_MAX_WAKE_UP_US = 0
"""The limit in a virtual machine, where any sleep gives the core away: only waiting awake helps."""


class AwakeCores:
    """Keeps cores awake from `hold()` until a `release_if_unused()` that saw no `hold()` since the one before."""

    def __init__(self, latency_file: Path = LATENCY_FILE, idle_driver_file: Path = IDLE_DRIVER_FILE) -> None:
        self._latency_file = latency_file
        self._idle_driver_file = idle_driver_file
        self._lock = Lock()  # of opening and closing
        self._held: FileIO | None = None
        self._is_used = False
        self._may_hold = True

    @property
    def is_held(self) -> bool:
        return self._held is not None

    def hold(self) -> None:
        """Keep cores awake; call after each step. Only the first call acts, and only if the system allows it."""
        self._is_used = True
        if self._held is None and self._may_hold:
            with self._lock:
                self._open()

    def release_if_unused(self) -> None:
        """Release the cores if there was no `hold` since the last call. Call from time to time."""
        if not self._is_used:
            with self._lock:
                self._let_go()
        self._is_used = False

    def close(self) -> None:
        """Release the cores for good."""
        with self._lock:
            self._may_hold = False
            self._let_go()

    def _let_go(self) -> None:
        if self._held is not None:
            self._held.close()
            self._held = None

    def _open(self) -> None:
        if not self._may_hold:
            return
        try:
            self._held = FileIO(self._latency_file, "r+")
            self._held.write(self._max_wake_up_us().to_bytes(4, sys.byteorder))
        except OSError as error:
            self._may_hold = False
            self._let_go()
            if isinstance(error, PermissionError):
                fix = f"give this user write access to {self._latency_file}: see README"
                log.info("cores may sleep between steps, which costs speed", extra={"cause": str(error), "fix": fix})

    def _max_wake_up_us(self) -> int:
        try:
            driver = self._idle_driver_file.read_text(encoding="ascii").strip()
        except OSError:
            return MAX_WAKE_UP_US
        return VIRTUAL_MAX_WAKE_UP_US if driver == "haltpoll" else MAX_WAKE_UP_US
