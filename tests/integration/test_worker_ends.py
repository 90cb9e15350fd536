"""How a worker ended, as its daemon tells it: programs that die in various ways in place of the real one."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from exo_lite.domain.ids import Epoch
from exo_lite.domain.node import ShardStatus
from exo_lite.node.worker_process import WorkerProcess
from tests.integration.real_workers import config_for
from tests.loopback import PEERS

LISTENING = 'echo \'{"port": 9, "stream_port": 9}\''
ABORTED = "the worker on attic was killed by signal 6; its last output: terminate called; what(): std::bad_alloc"
BY_KERNEL = "the worker on attic was killed by the kernel: the machine, or the container, ran out of memory"


async def ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, oom_kills: Iterator[int]) -> ShardStatus:
    """What is known of a worker that is this script."""
    program = tmp_path / "program"
    program.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    os.chmod(program, 0o700)  # noqa: PTH101
    monkeypatch.setattr(sys, "executable", str(program))
    count = lambda: next(oom_kills)  # noqa: E731
    process = WorkerProcess(config_for("attic", tmp_path), "f", Epoch(1), lambda: None, PEERS, count_oom_kills=count)
    await process.run()
    return process.status


@pytest.mark.parametrize(
    ("script", "oom_kills", "error", "code"),
    [
        (
            "echo terminate called >&2; echo '  what(): std::bad_alloc' >&2; kill -ABRT $$",
            (0, 0),
            ABORTED,
            "cannot_start",
        ),
        ("kill -KILL $$", (3, 3), "the worker on attic was killed by signal 9", "worker_cannot_start"),
        ("kill -KILL $$", (3, 4), BY_KERNEL, "out_of_memory"),
        (f"{LISTENING}; kill -KILL $$", (3, 3), "the worker on attic was killed by signal 9", "worker_failed"),
        (f"{LISTENING}; kill -KILL $$", (3, 4), BY_KERNEL, "out_of_memory"),
        ("exit 3", (0, 1), "the worker on attic exited with code 3", "worker_cannot_start"),
        (
            'echo \'{"error": "ports 1 to 2 are in use"}\'',
            (0, 0),
            "no worker can be started on attic: ports 1 to 2 are in use",
            "port_in_use",
        ),
    ],
    ids=["aborts", "killed", "out-of-memory", "killed-later", "out-of-memory-later", "exits", "no-port"],
)
async def test_the_end_of_a_worker_names_its_cause_and_its_last_words(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    script: str,
    oom_kills: tuple[int, int],
    error: str,
    code: str,
):
    status = await ended(tmp_path, monkeypatch, script, iter(oom_kills))
    assert status.state == "lost"
    assert status.end is not None
    assert status.end.text == error
    assert status.end.code.endswith(code)


async def test_what_a_worker_writes_to_standard_error_goes_on_to_the_daemons(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    await ended(tmp_path, monkeypatch, "echo a line of its log >&2; exit 1", iter((0, 0)))
    assert "a line of its log" in capfd.readouterr().err
