"""Limits of control groups, read from trees as Linux, Docker, Kubernetes and systemd lay them out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from exo_lite.node.cgroups import CgroupLimits, Cgroups

GIB = 2**30
UNLIMITED_V1 = 9223372036854771712


def tree(root: Path, cgroup: str, mountinfo: str, files: Mapping[str, object]) -> Cgroups:
    proc = root / "proc/self"
    proc.mkdir(parents=True)
    (proc / "cgroup").write_text(cgroup)
    (proc / "mountinfo").write_text(mountinfo)
    for name, content in files.items():
        path = root / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{content}\n")
    return Cgroups(root)


def v2(root: Path, path: str, files: Mapping[str, object], base: str = "/") -> Cgroups:
    mountinfo = f"30 23 0:26 {base} /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n"
    return tree(root, f"0::{path}\n", mountinfo, files)


def v1(root: Path, path: str, files: Mapping[str, object], base: str = "/") -> Cgroups:
    mounts = "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n" + "".join(
        f"3{index} 31 0:3{index} {base} /sys/fs/cgroup/{name} rw,relatime - cgroup cgroup rw,{options}\n"
        for index, (name, options) in enumerate({"cpu,cpuacct": "cpu,cpuacct", "memory": "memory"}.items())
    )
    return tree(root, f"5:memory:{path}\n4:cpu,cpuacct:{path}\n1:name=systemd:{path}\n0::/\n", mounts, files)


def test_a_container_of_version_2_with_a_namespace_of_its_own(tmp_path: Path):
    files = {
        "memory.max": 2 * GIB,
        "memory.high": "max",
        "memory.current": GIB,
        "memory.stat": f"anon 1\nfile 2\ninactive_file {GIB // 2}\nactive_file 3",
        "cpu.max": "50000 100000",
    }
    assert v2(tmp_path, "/", files).read() == CgroupLimits(2 * GIB, GIB // 2, 0.5)


def test_the_tightest_of_a_group_and_its_parents_counts(tmp_path: Path):
    files = {
        "a.slice/memory.max": 8 * GIB,
        "a.slice/memory.current": 7 * GIB,
        "a.slice/b.service/memory.max": 4 * GIB,
        "a.slice/b.service/memory.current": GIB,
        "a.slice/b.service/memory.high": 3 * GIB,
        "a.slice/cpu.max": "150000 100000",
        "a.slice/b.service/cpu.max": "max 100000",
    }
    assert v2(tmp_path, "/a.slice/b.service", files).read() == CgroupLimits(8 * GIB, 7 * GIB, 1.5)
    (tmp_path / "sys/fs/cgroup/a.slice/memory.current").write_text("0")
    assert Cgroups(tmp_path).read() == CgroupLimits(3 * GIB, GIB, 1.5)


def test_a_container_of_version_1_that_sees_its_group_as_the_root(tmp_path: Path):
    files = {
        "memory/memory.limit_in_bytes": 2 * GIB,
        "memory/memory.usage_in_bytes": GIB,
        "memory/memory.stat": f"cache 1\ntotal_inactive_file {GIB // 4}\nhierarchical_memory_limit {2 * GIB}",
        "cpu,cpuacct/cpu.cfs_quota_us": 50_000,
        "cpu,cpuacct/cpu.cfs_period_us": 100_000,
    }
    limits = v1(tmp_path, "/docker/0123", files, base="/docker/0123").read()
    assert limits == CgroupLimits(2 * GIB, 3 * GIB // 4, 0.5)


def test_limits_of_version_1_hold_for_the_groups_within(tmp_path: Path):
    files = {
        "memory/memory.limit_in_bytes": UNLIMITED_V1,
        "memory/kubepods/memory.limit_in_bytes": 6 * GIB,
        "memory/kubepods/pod/memory.limit_in_bytes": UNLIMITED_V1,
        "cpu,cpuacct/kubepods/cpu.cfs_quota_us": 300_000,
        "cpu,cpuacct/kubepods/cpu.cfs_period_us": 100_000,
        "cpu,cpuacct/kubepods/pod/cpu.cfs_quota_us": -1,
        "cpu,cpuacct/kubepods/pod/cpu.cfs_period_us": 100_000,
    }
    assert v1(tmp_path, "/kubepods/pod", files).read() == CgroupLimits(6 * GIB, 0, 3.0)


def test_a_limit_of_a_parent_that_a_container_does_not_see_still_counts(tmp_path: Path):
    files = {
        "memory/memory.limit_in_bytes": UNLIMITED_V1,
        "memory/memory.usage_in_bytes": GIB,
        "memory/memory.stat": f"hierarchical_memory_limit {4 * GIB}",
    }
    assert v1(tmp_path, "/kubepods/pod", files, base="/kubepods/pod").read().memory_bytes == 4 * GIB


def test_a_group_that_is_mounted_under_another_name_is_the_mounted_one(tmp_path: Path):
    """Docker with the host's cgroup namespace, or a path that leads out of the namespace."""
    for number, path in enumerate(("/system.slice/docker-0123.scope", "/../../elsewhere", "/gone")):
        folder = tmp_path / str(number)
        assert v2(folder, path, {"memory.max": 2 * GIB}).read().memory_bytes == 2 * GIB


def test_version_2_beside_version_1_counts_too(tmp_path: Path):
    mountinfo = (
        "35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
        "41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"
    )
    files = {"memory/memory.limit_in_bytes": 3 * GIB, "unified/user/cpu.max": "200000 100000"}
    limits = tree(tmp_path, "4:memory:/\n0::/user\n", mountinfo, files).read()
    assert limits == CgroupLimits(3 * GIB, 0, 2.0)


@pytest.mark.parametrize(
    "files",
    [
        {},
        {"memory.max": "max", "cpu.max": "max 100000"},
        {"memory.max": "", "cpu.max": "1"},
        {"memory.max": "a lot", "cpu.max": "a b c", "memory.stat": "inactive_file\nx y z"},
    ],
    ids=["no files", "no limits", "empty", "nonsense"],
)
def test_without_limits_there_are_none(tmp_path: Path, files: dict[str, object]):
    assert v2(tmp_path, "/", files).read() == CgroupLimits()


def test_a_machine_without_control_groups_has_no_limits(tmp_path: Path):
    assert Cgroups(tmp_path).read() == CgroupLimits()


def test_limits_are_read_anew_each_time(tmp_path: Path):
    cgroups = v2(tmp_path, "/", {"memory.max": 2 * GIB, "cpu.max": "50000 100000"})
    assert cgroups.read() == CgroupLimits(2 * GIB, 0, 0.5)
    (tmp_path / "sys/fs/cgroup/memory.max").write_text(f"{4 * GIB}\n")
    (tmp_path / "sys/fs/cgroup/cpu.max").write_text("max 100000\n")
    assert cgroups.read() == CgroupLimits(4 * GIB, 0, None)
