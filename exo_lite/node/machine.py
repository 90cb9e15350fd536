"""What this machine has: a name, a device, memory."""

from __future__ import annotations

import os
import platform
import socket
import subprocess
import sys
from pathlib import Path

import psutil

from exo_lite.domain.errors import StartupError
from exo_lite.domain.node import Device

MIN_RESERVE_BYTES = 1024**3
RESERVE_SHARE = 0.1
"""Of the free memory, left to everything else on the machine."""


def default_name() -> str:
    return socket.gethostname().split(".")[0] or "node"


def default_memory_bytes() -> int:
    """What is free now, less a reserve for the rest of the machine."""
    free = psutil.virtual_memory().available
    return max(0, free - max(MIN_RESERVE_BYTES, int(free * RESERVE_SHARE)))


def find_device(wanted: str, threads: int | None) -> Device:
    """The device to compute on, `wanted` being auto, cpu, cuda:N or mps. Raises StartupError.

    The daemon itself never loads torch: where an accelerator may be, a short-lived worker program looks for it.
    """
    num_threads = threads or psutil.cpu_count(logical=False) or os.cpu_count() or 1
    if wanted == "cpu" or (wanted == "auto" and not _may_have_accelerator()):
        return Device("cpu", _processor_name(), num_threads)
    command = [sys.executable, "-m", "exo_lite.worker.probe_device", wanted]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    if answer.returncode != 0:
        raise StartupError(f"device {wanted} cannot be used: {answer.stderr.strip().splitlines()[-1:]}")
    kind, _, name = answer.stdout.strip().partition(" ")
    if kind == "cuda":
        return Device("cuda", name, num_threads)
    if kind == "mps":
        return Device("mps", name, num_threads)
    return Device("cpu", _processor_name(), num_threads)


def torch_device(wanted: str, device: Device) -> str:
    """The name by which torch knows the device that was found."""
    if device.kind == "cuda":
        return wanted if wanted.startswith("cuda") else "cuda:0"
    return device.kind


def _may_have_accelerator() -> bool:
    return Path("/dev/nvidiactl").exists() or (sys.platform == "darwin" and platform.machine() == "arm64")


def _processor_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass  # not Linux
    return platform.processor() or platform.machine()
