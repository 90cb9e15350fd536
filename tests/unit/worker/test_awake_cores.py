"""The bound on how long a core may take to wake up: asked for while there are steps, given back after."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path

import psutil
import pytest

from exo_lite.worker.awake_cores import LATENCY_FILE, MAX_WAKE_UP_US, VIRTUAL_MAX_WAKE_UP_US, AwakeCores


@pytest.fixture
def latency_file(tmp_path: Path) -> Path:
    path = tmp_path / "latency"
    path.touch()
    return path


def is_open(path: Path) -> bool:
    return str(path) in [file.path for file in psutil.Process().open_files()]


def asked_for(path: Path) -> int:
    return int.from_bytes(path.read_bytes(), sys.byteorder)


@pytest.mark.parametrize(
    ("driver", "wake_up_us"),
    [("haltpoll\n", VIRTUAL_MAX_WAKE_UP_US), ("intel_idle\n", MAX_WAKE_UP_US), (None, MAX_WAKE_UP_US)],
)
def test_how_deep_cores_may_sleep_hangs_on_what_their_sleep_is(latency_file, tmp_path, driver, wake_up_us):
    driver_file = tmp_path / "driver"
    if driver is not None:
        driver_file.write_text(driver)
    cores = AwakeCores(latency_file, driver_file)
    cores.hold()
    assert is_open(latency_file)
    assert latency_file.stat().st_size == 4
    assert asked_for(latency_file) == wake_up_us
    cores.close()


def test_cores_sleep_again_once_no_step_has_come_for_a_while(latency_file):
    cores = AwakeCores(latency_file)
    assert not is_open(latency_file)
    for _ in range(2):
        cores.hold()
        cores.hold()
        cores.release_if_unused()
        assert is_open(latency_file)
        assert cores.is_held
        cores.release_if_unused()
        assert not is_open(latency_file)
        assert not cores.is_held


def test_a_step_that_was_under_way_at_the_end_holds_nothing_any_more(latency_file):
    cores = AwakeCores(latency_file)
    cores.hold()
    cores.close()
    cores.hold()
    assert not is_open(latency_file)


def test_where_there_is_no_such_file_nothing_is_said(tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        AwakeCores(tmp_path / "none").hold()
    assert caplog.records == []


def test_who_may_not_write_it_is_told_once_what_helps(monkeypatch, latency_file, caplog):
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied", str(latency_file))

    monkeypatch.setattr("exo_lite.worker.awake_cores.FileIO", refuse)
    cores = AwakeCores(latency_file)
    with caplog.at_level(logging.INFO):
        cores.hold()
        cores.hold()
    assert not cores.is_held
    (record,) = caplog.records
    assert str(latency_file) in record.fix


@pytest.mark.skipif(not os.access(LATENCY_FILE, os.R_OK | os.W_OK), reason="this user may not keep cores awake")
def test_linux_keeps_to_it():
    cores = AwakeCores()
    cores.hold()
    assert asked_for(LATENCY_FILE) <= MAX_WAKE_UP_US
    cores.close()
