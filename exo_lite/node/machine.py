"""This machine's name and device."""

from __future__ import annotations

import platform
import socket
import subprocess
import sys
from pathlib import Path

from exo_lite.domain.errors import StartupError
from exo_lite.domain.node import Device


def default_name() -> str:
    return socket.gethostname().split(".")[0] or "node"


def find_device(wanted: str, num_threads: int) -> Device:
    """The device to compute on, `wanted` being auto, cpu, cuda:N or mps. Raises StartupError.

    The daemon itself never loads torch: where an accelerator may be, a short-lived worker program looks for it.
    """
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
