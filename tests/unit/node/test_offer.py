"""What a node offers: the least of what machine, container and flags leave."""

from __future__ import annotations

import os
import resource
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from exo_lite.node.cgroups import Cgroups
from exo_lite.node.offer import MachineOffer, Offer, free_less_reserve
from tests.unit.node.test_cgroups import v2

GIB = 2**30
CORES, BOUND_TO = 8, 6


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """64 GiB free, eight cores of two threads, bound to six of those."""
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=64 * GIB))
    monkeypatch.setattr(psutil, "cpu_count", lambda logical=True: 2 * CORES if logical else CORES)
    monkeypatch.setattr(os, "cpu_count", lambda: 2 * CORES)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(BOUND_TO)), raising=False)


@pytest.mark.parametrize(("free_gib", "expected_gib"), [(0.5, 0.0), (4, 3.0), (64, 57.6)])
def test_what_is_free_leaves_a_reserve(monkeypatch: pytest.MonkeyPatch, free_gib: float, expected_gib: float):
    available = int(free_gib * GIB)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=available))
    assert free_less_reserve() == pytest.approx(expected_gib * GIB, abs=1)


def offer(
    folder: Path, files: dict[str, object], memory_bytes: int | None = None, threads: int | None = None
) -> MachineOffer:
    return MachineOffer(memory_bytes, threads, v2(folder, "/", files))


def test_without_a_group_it_is_what_is_free_and_the_cores_it_is_bound_to(tmp_path: Path):
    assert MachineOffer(None, None, Cgroups(tmp_path)).read() == Offer(free_less_reserve(), BOUND_TO)


@pytest.mark.parametrize(
    ("cpu_max", "expected"), [("50000 100000", 1), ("150000 100000", 2), ("400000 100000", 4), ("max 100000", BOUND_TO)]
)
def test_a_quota_is_worth_so_many_threads(tmp_path: Path, cpu_max: str, expected: int):
    assert offer(tmp_path, {"cpu.max": cpu_max}).read().threads == expected


def test_threads_that_somebody_asks_for_are_theirs_to_choose(tmp_path: Path):
    assert offer(tmp_path, {"cpu.max": "50000 100000"}, threads=4).read().threads == 4


def test_a_container_of_2_gib_and_half_a_core(tmp_path: Path):
    files = {"memory.max": 2 * GIB, "memory.current": GIB // 4, "cpu.max": "50000 100000"}
    offered = offer(tmp_path, files).read()
    assert offered == Offer(2 * GIB - GIB // 4 - GIB // 2, 1)


def test_what_a_model_takes_of_a_container_does_not_change_the_offer(tmp_path: Path):
    subject = offer(tmp_path, {"memory.max": 4 * GIB, "memory.current": GIB // 4})
    before = subject.read()
    (tmp_path / "sys/fs/cgroup/memory.current").write_text(str(3 * GIB))
    assert subject.read() == before


def test_a_limit_that_is_changed_changes_the_offer(tmp_path: Path):
    subject = offer(tmp_path, {"memory.max": 4 * GIB, "cpu.max": "max 100000"})
    assert subject.read() == Offer(4 * GIB - GIB // 2, BOUND_TO)
    (tmp_path / "sys/fs/cgroup/memory.max").write_text(str(GIB // 4))
    (tmp_path / "sys/fs/cgroup/cpu.max").write_text("100000 100000")
    assert subject.read() == Offer(0, 1)
    (tmp_path / "sys/fs/cgroup/memory.max").write_text("max")
    assert subject.read() == Offer(free_less_reserve(), 1)


def test_memory_that_somebody_asks_for_stays_with_a_warning_where_it_is_not_there(tmp_path: Path):
    subject = offer(tmp_path, {"memory.max": 2 * GIB}, memory_bytes=GIB)
    assert subject.read() == Offer(GIB, BOUND_TO)
    (tmp_path / "sys/fs/cgroup/memory.max").write_text(str(GIB))
    offered = subject.read()
    assert (offered.memory_bytes, offered.threads) == (GIB, BOUND_TO)
    assert offered.warning is not None
    assert "--memory 1.0 GiB is more than the 512.0 MiB" in offered.warning


def test_an_address_space_with_a_limit_is_one_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    subject = MachineOffer(None, None, Cgroups(tmp_path))
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (6 * GIB, 8 * GIB))
    assert subject.read().memory_bytes == 5 * GIB
