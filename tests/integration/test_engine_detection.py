"""The program that a daemon starts to learn what its engine finds: what it says is tried, not hoped."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from exo_lite.domain.engine import DEFAULT_ENGINE, Detected
from exo_lite.domain.errors import StartupError
from exo_lite.node.machine import find_engine, try_engine

SLOW = {"torch", "numpy", "gguf"}
UNTRIED = f"import sys; import exo_lite.daemon.main, exo_lite.engine.table; sys.exit(bool({SLOW} & set(sys.modules)))"


def detected(**environment: str) -> Detected:
    command = [sys.executable, "-m", "exo_lite.engine.detect", DEFAULT_ENGINE, "cpu"]
    answer = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, **environment})
    return Detected(**json.loads(answer.stdout))


def test_kernels_that_build_are_what_computes():
    assert detected() == Detected("cpu", "", "cpu", "torch-c/c")


def test_where_they_cannot_be_built_the_answer_is_torchs_own_kernels(tmp_path: Path):
    found = detected(CC="false", EXO_LITE_KERNEL_CACHE=str(tmp_path))
    assert found.numerics.startswith("torch-c/torch ")
    assert list(tmp_path.iterdir()) == []


async def test_a_processor_is_found_at_once_and_its_engine_tried_later():
    machine = await find_engine("cpu", 3)
    assert (machine.device.kind, machine.device.threads, machine.device_name) == ("cpu", 3, "cpu")
    assert machine.device.name
    assert machine.engine.numerics is None
    assert (await try_engine(machine.engine.name, machine.device_name)).numerics == "torch-c/c"


async def test_a_device_that_is_not_there_keeps_a_node_from_starting():
    with pytest.raises(StartupError, match=r"device cuda:99 cannot be used.*CUDA devices"):
        await find_engine("cuda:99", 1)


def test_the_daemon_and_the_table_of_engines_are_imported_without_what_takes_long():
    subprocess.run([sys.executable, "-c", UNTRIED], check=True)
