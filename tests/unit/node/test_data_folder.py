from __future__ import annotations

import errno
import os
from contextlib import closing
from pathlib import Path

import pytest

from exo_lite.domain.errors import DataFolderInUse, StartupError
from exo_lite.node.data_folder import DataFolder, new_boot_id


def test_the_id_is_made_once_and_kept(tmp_path: Path):
    ids = []
    for _ in range(3):
        with closing(DataFolder(tmp_path / "data")) as folder:
            ids += [folder.node_id(), folder.node_id()]
    assert len(set(ids)) == 1
    assert len(ids[0]) == 16
    with closing(DataFolder(tmp_path / "other")) as other:
        assert other.node_id() != ids[0]


def test_boot_ids_differ():
    assert new_boot_id() != new_boot_id()


def test_a_second_daemon_is_kept_out_and_told_what_to_do(tmp_path: Path):
    with closing(DataFolder(tmp_path)) as first:
        first.publish_http_address("127.0.0.1:1")
        with pytest.raises(DataFolderInUse, match="stop it, or give this one its own --data-dir") as refused:
            DataFolder(tmp_path)
        assert str(tmp_path) in str(refused.value)
        assert (tmp_path / "http.address").exists()  # the first one's, undisturbed
    DataFolder(tmp_path).close()


def test_the_folder_is_made_and_is_nobody_elses(tmp_path: Path):
    with closing(DataFolder(tmp_path / "deep" / "data")) as folder:
        assert folder.path.stat().st_mode & 0o077 == 0


def test_the_http_address_is_there_while_the_daemon_is(tmp_path: Path):
    published = tmp_path / "http.address"
    folder = DataFolder(tmp_path)
    folder.publish_http_address("127.0.0.1:52415")
    assert published.read_text() == "127.0.0.1:52415\n"
    folder.publish_http_address("127.0.0.1:52416")
    assert published.read_text() == "127.0.0.1:52416\n"
    folder.close()
    assert not published.exists()


def test_the_address_of_a_daemon_that_was_killed_does_not_stay(tmp_path: Path):
    (tmp_path / "http.address").write_text("127.0.0.1:1\n")
    with closing(DataFolder(tmp_path)):
        assert not (tmp_path / "http.address").exists()


def test_a_folder_that_cannot_be_made_says_so(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StartupError, match="choose another with --data-dir"):
        DataFolder(tmp_path / "file" / "data")


@pytest.mark.parametrize(
    ("number", "way_out"),
    [
        (errno.ENOSPC, "free some space there"),
        (errno.EDQUOT, "quota"),
        (errno.EACCES, "the right to write there"),
        (errno.EROFS, "mount it so that it can be written"),
        (errno.EIO, "see the cause"),
    ],
)
def test_what_cannot_be_written_is_told_with_the_way_out_and_nothing_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, way_out: str
):
    def fail(descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    with closing(DataFolder(tmp_path)) as folder:
        monkeypatch.setattr(os, "fsync", fail)
        for write in (folder.node_id, lambda: folder.publish_http_address("127.0.0.1:1")):
            with pytest.raises(StartupError, match=way_out) as refused:
                write()
            assert os.strerror(number) in str(refused.value)
            assert "--data-dir" in str(refused.value)
        assert [path.name for path in tmp_path.iterdir()] == ["lock"]


def test_a_file_in_place_of_the_folder_or_above_it_is_named(tmp_path: Path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "data"):
        with pytest.raises(StartupError, match="a file stands in its place"):
            DataFolder(path)


@pytest.mark.parametrize("content", [b"", b"\n", b"\xff\xfe\x00", b"../../etc", b"0123456789abcdef\nmore"])
def test_an_id_file_that_holds_none_is_named_with_the_way_out(tmp_path: Path, content: bytes):
    (tmp_path / "node_id").write_bytes(content)
    with closing(DataFolder(tmp_path)) as folder, pytest.raises(StartupError, match=r"node_id.*delete it"):
        folder.node_id()
