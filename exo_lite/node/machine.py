"""This machine's name, its device, and an engine whose kernels really build."""

from __future__ import annotations

import asyncio
import json
import platform
import socket
import sys
from asyncio.subprocess import PIPE
from dataclasses import dataclass
from pathlib import Path

from exo_lite.domain.engine import DEFAULT_ENGINE, Detected, NodeEngine
from exo_lite.domain.errors import StartupError
from exo_lite.domain.node import Device

LOOK_TIMEOUT_S = 60.0
TRY_TIMEOUT_S = 600.0
"""A small machine compiles for minutes, and nobody waits for it."""


@dataclass(frozen=True, slots=True)
class FoundEngine:
    """The device and the engine of a node. device_name: the device as the engine takes it."""

    device: Device
    device_name: str
    engine: NodeEngine


def default_name() -> str:
    return socket.gethostname().split(".")[0] or "node"


async def find_engine(wanted: str, num_threads: int) -> FoundEngine:
    """Find the device to compute on, `wanted` being auto, cpu, cuda:N or mps. Raises StartupError.

    Only where an accelerator may be, the engine is asked at once. Else it is tried later: `try_engine`.
    """
    if wanted == "cpu" or (wanted == "auto" and not _may_have_accelerator()):
        return FoundEngine(Device("cpu", _processor_name(), num_threads), "cpu", NodeEngine(DEFAULT_ENGINE))
    found = await try_engine(DEFAULT_ENGINE, wanted, timeout_s=LOOK_TIMEOUT_S)
    device = Device(found.kind, found.name or _processor_name(), num_threads)
    return FoundEngine(device, found.device, NodeEngine(DEFAULT_ENGINE, found.numerics))


async def try_engine(engine: str, wanted: str, *, timeout_s: float = TRY_TIMEOUT_S) -> Detected:
    """Ask an engine what it finds, with its kernels built and tried. Raises StartupError.

    The daemon itself never loads torch: a short-lived program looks.
    """
    command = (sys.executable, "-m", "exo_lite.engine.detect", engine, wanted)
    process = await asyncio.create_subprocess_exec(*command, stdout=PIPE, stderr=PIPE)
    try:
        async with asyncio.timeout(timeout_s):
            answer, complaint = await process.communicate()
    except TimeoutError as error:
        raise StartupError(f"{engine} did not report within {timeout_s:.0f} s how it computes on {wanted}") from error
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode != 0:
        raise StartupError(f"device {wanted} cannot be used: {complaint.decode().strip().splitlines()[-1:]}")
    return Detected(**json.loads(answer))


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
