"""Where the compiled kernels are kept: the first folder that will do, and none that anybody else may write."""

from __future__ import annotations

import shutil
from pathlib import Path

import platformdirs
import pytest

from exo_lite.engine.torch_c.native import build
from exo_lite.engine.torch_c.native.build import CACHE_VARIABLE, FALLBACK_VARIABLE, cache_folders, load_library
from exo_lite.node.worker_process import KERNEL_CACHE_FALLBACK


@pytest.fixture
def builds(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Path]:
    """The targets of builds, which copy a library that was compiled before."""
    monkeypatch.delenv("CACHE_DIRECTORY", raising=False)
    compiled = tmp_path / "compiled.so"
    for folder in cache_folders():
        for kept in folder.glob("kernels-*.so"):
            compiled = kept
    if not compiled.exists():
        monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "first"))
        assert load_library() is not None, "the suite needs a C compiler"
        [compiled] = (tmp_path / "first").glob("kernels-*.so")
    built: list[Path] = []

    def copy(compiler: str, source: dict[str, bytes], target: Path) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.parent.name == "noexec":
            target.write_bytes(b"not to be run")
        else:
            shutil.copy(compiled, target)
        built.append(target)

    monkeypatch.setattr(build, "_build", copy)
    for name in (CACHE_VARIABLE, FALLBACK_VARIABLE):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(platformdirs, "user_cache_dir", lambda name: str(tmp_path / "file" / name))
    return built


def test_a_home_that_cannot_be_written_leaves_the_daemons_folder(
    builds: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setenv(FALLBACK_VARIABLE, str(tmp_path / "data" / "kernels"))
    with caplog.at_level("INFO"):
        assert load_library() is not None
        assert load_library() is not None  # the second time it is there
    assert [target.parent for target in builds] == [tmp_path / "data" / "kernels"]
    assert f"the C kernels are kept in {tmp_path / 'data' / 'kernels'}" in caplog.text


def test_a_service_keeps_them_in_its_cache_folder(builds: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CACHE_DIRECTORY", f"{tmp_path / 'cache'}:{tmp_path / 'another'}")
    assert load_library() is not None
    assert [target.parent for target in builds] == [tmp_path / "cache"]


def test_where_nothing_can_be_kept_they_are_built_for_one_load(
    builds: list[Path], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    assert load_library() is not None
    [target] = builds
    assert not target.exists()
    assert not target.parent.exists()
    assert CACHE_VARIABLE in caplog.records[-1].__dict__["fix"]


def test_a_folder_that_nothing_can_be_run_from_is_passed_over(
    builds: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """As on a disk that is mounted noexec: the library is there, and cannot be loaded."""
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "noexec"))
    monkeypatch.setenv(FALLBACK_VARIABLE, str(tmp_path / "data"))
    for _ in range(2):
        assert load_library() is not None
    assert [target.parent.name for target in builds] == ["noexec", "data"]


def test_folders_are_absolute_and_each_is_tried_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path))
    monkeypatch.setenv("CACHE_DIRECTORY", str(tmp_path))
    monkeypatch.setenv(FALLBACK_VARIABLE, "kernels")
    monkeypatch.setattr(platformdirs, "user_cache_dir", lambda name: "~/.cache/exo-lite")  # of a user without a home
    assert cache_folders() == [tmp_path]


def test_the_daemon_and_its_workers_name_the_folder_alike():
    assert KERNEL_CACHE_FALLBACK == FALLBACK_VARIABLE
