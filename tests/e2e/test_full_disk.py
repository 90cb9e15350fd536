"""A real daemon whose data folder lies on a disk that is full, or can only be read."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.daemons import run_cli


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A mounted disk of four pages."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", str(folder)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"this user mounts nothing: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def fill(disk: Path) -> None:
    with contextlib.suppress(OSError), (disk / "filler").open("wb", buffering=0) as filler:
        while filler.write(bytes(4096)):
            pass


def start(data_dir: Path, models_dir: Path) -> str:
    """What a daemon that cannot start says."""
    arguments = ["--host", "127.0.0.1", "--port", "0", "--http", "127.0.0.1:0", "--memory", "64MiB", "--device", "cpu"]
    done = run_cli("node", *arguments, "--data-dir", str(data_dir), "--models-dir", str(models_dir))
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    return done.stderr


def test_a_full_disk_is_said_in_words_and_nothing_is_left_half_written(small_disk: Path, tmp_path: Path):
    data_dir = small_disk / "data"
    data_dir.mkdir()
    fill(small_disk)
    said = start(data_dir, tmp_path)
    assert f"data folder {data_dir} cannot be used: No space left on device; free some space there" in said
    assert "--data-dir" in said
    assert [path.name for path in data_dir.iterdir()] == ["lock"]

    (small_disk / "filler").unlink()
    (data_dir / "node_id").write_text("0123456789abcdef\n")
    fill(small_disk)
    said = start(data_dir, tmp_path)  # the address of its page can't be left for others
    assert "No space left on device; free some space there" in said
    assert sorted(path.name for path in data_dir.iterdir()) == ["lock", "node_id"]


def test_a_disk_that_can_only_be_read_is_said_in_words(small_disk: Path, tmp_path: Path):
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    assert "Read-only file system; mount it so that it can be written" in start(small_disk / "data", tmp_path)
