"""The kernel's counters of processes that it ended for their memory."""

from __future__ import annotations

from pathlib import Path

import pytest

from exo_lite.node.oom import num_oom_kills

VMSTAT = {"proc/vmstat": "nr_free_pages 17\noom_kill 2\n"}
V2 = {"proc/self/cgroup": "0::/user/x\n", "sys/fs/cgroup/user/x/memory.events": "low 0\noom 9\noom_kill 3\n"}
V1 = {
    "proc/self/cgroup": "5:cpu:/y\n4:memory:/y\n",
    "sys/fs/cgroup/memory/y/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 4\n",
}


@pytest.mark.parametrize(
    ("files", "expected"),
    [({}, None), (VMSTAT, 2), (V2, 3), (V1, 4), (VMSTAT | V2, 5), ({"proc/vmstat": "oom_kill many\n"}, None)],
)
def test_they_are_read_wherever_they_are(tmp_path: Path, files: dict[str, str], expected: int | None):
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    assert num_oom_kills(tmp_path) == expected
