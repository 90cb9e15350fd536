"""Real daemons in control groups of their own, or bound to one core: they offer what those leave."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.daemons import Daemons, Node, wait_until

GIB = 2**30
GROUPS = Path("/sys/fs/cgroup")


class Group:
    """A control group of this test, of whichever version the machine has."""

    def __init__(self, folders: list[Path], is_unified: bool) -> None:
        self.folders = folders
        self._is_unified = is_unified

    def limit_memory(self, limit_bytes: int) -> None:
        name = "memory.max" if self._is_unified else "memory.limit_in_bytes"
        (self.folders[0] / name).write_text(str(limit_bytes))

    def limit_cpus(self, quota_us: int) -> None:
        if self._is_unified:
            (self.folders[0] / "cpu.max").write_text(f"{quota_us} 100000")
        else:
            (self.folders[1] / "cpu.cfs_period_us").write_text("100000")
            (self.folders[1] / "cpu.cfs_quota_us").write_text(str(quota_us))

    @property
    def join(self) -> str:
        """In the words of a shell."""
        return " && ".join(f"echo $$ > {folder}/cgroup.procs" for folder in self.folders)


@pytest.fixture
def group() -> Iterator[Group]:
    name = f"exo-lite-test-{secrets.token_hex(4)}"
    is_unified = (GROUPS / "cgroup.controllers").exists()
    folders = [GROUPS / name] if is_unified else [GROUPS / "memory" / name, GROUPS / "cpu" / name]
    made = Group(folders, is_unified)
    try:
        for folder in folders:
            folder.mkdir()
        made.limit_memory(2 * GIB)
        made.limit_cpus(50_000)
    except OSError as error:
        _remove(folders)
        pytest.skip(f"this machine lets nobody make control groups: {error}")
    yield made
    wait_until(lambda: _remove(folders), "the group is empty")


def _remove(folders: list[Path]) -> bool:
    for folder in folders:
        with contextlib.suppress(FileNotFoundError):
            try:
                folder.rmdir()
            except OSError:
                return False  # its last process is ending
    return True


def own(node: Node) -> dict[str, Any]:
    return next(one for one in node.state()["nodes"] if one["self"])


def test_a_node_offers_what_its_group_leaves_also_after_a_change(own_daemons: Daemons, group: Group):
    with own_daemons as daemons:
        node = daemons.start("a", memory=None, threads=None, shell=group.join)
        assert 1.2 * GIB < own(node)["memory"]["limit_bytes"] <= 1.5 * GIB
        assert own(node)["device"]["threads"] == 1

        group.limit_memory(1 * GIB)
        wait_until(lambda: own(node)["memory"]["limit_bytes"] <= 0.5 * GIB, "the lower limit is seen")
        group.limit_memory(3 * GIB)
        wait_until(lambda: own(node)["memory"]["limit_bytes"] > 2 * GIB, "the higher limit is seen")
        told = [event["text"] for event in node.state()["events"] if event["kind"] == "offer_changed"]
        assert len(told) == 2


def test_a_cap_that_a_group_does_not_leave_is_kept_and_told_of(own_daemons: Daemons, group: Group):
    with own_daemons as daemons:
        node = daemons.start("a", memory="3GiB", shell=group.join)
        assert own(node)["memory"]["limit_bytes"] == 3 * GIB
        event = wait_until(
            lambda: next((one for one in node.state()["events"] if one["kind"] == "memory_cap_too_high"), None), "told"
        )
        assert "--memory" in event["fix"]


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system binds no process to cores")
def test_a_node_that_is_bound_to_one_core_computes_with_one_thread(own_daemons: Daemons):
    core = min(os.sched_getaffinity(0))
    node = own_daemons.start("a", threads=None, shell=f"taskset -cp {core} $$ > /dev/null")
    assert own(node)["device"]["threads"] == 1
