"""A daemon's own folder: its id for life, and the lock that keeps a second daemon out."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import secrets
from contextlib import suppress
from pathlib import Path
from typing import IO

from exo_lite.domain.errors import DataFolderInUse, StartupError
from exo_lite.domain.ids import BootId, NodeId

_NODE_ID = re.compile(r"[0-9a-f]{1,64}")


class DataFolder:
    """Holds the lock from construction to close. Raises DataFolderInUse or StartupError."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._lock: IO[str] = (path / "lock").open("w")
        except OSError as error:
            raise _unusable(path, error) from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._lock.close()
            raise DataFolderInUse(
                f"another exo-lite daemon runs on {path}: stop it, or give this one its own --data-dir"
            ) from error
        self._unpublish()  # what a daemon that was killed left

    def close(self) -> None:
        self._unpublish()
        self._lock.close()

    def node_id(self) -> NodeId:
        """Made at the first start; copies of the folder share it, as the handshake finds out. Raises StartupError."""
        path = self.path / "node_id"
        if not path.exists():
            self._write(path, secrets.token_hex(8) + "\n")
        try:
            node_id = path.read_text(encoding="utf-8", errors="replace").strip()
        except OSError as error:
            raise _unusable(self.path, error) from error
        if not _NODE_ID.fullmatch(node_id):
            raise StartupError(
                f"{path} holds no node id, which is up to 64 hexadecimal digits: delete it to get a new one"
            )
        return NodeId(node_id)

    def publish_http_address(self, address: str) -> None:
        """Leave HOST:PORT where scripts on this machine find it. Raises StartupError."""
        self._write(self.path / "http.address", address + "\n")

    def _write(self, path: Path, text: str) -> None:
        """The whole file or nothing. Raises StartupError."""
        fresh = path.with_name(path.name + ".new")
        try:
            with fresh.open("w", encoding="ascii") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            fresh.rename(path)
        except OSError as error:
            with suppress(OSError):
                fresh.unlink(missing_ok=True)
            raise _unusable(self.path, error) from error

    def _unpublish(self) -> None:
        with suppress(OSError):  # a folder that was made read-only meanwhile
            (self.path / "http.address").unlink(missing_ok=True)


def _unusable(path: Path, error: OSError) -> StartupError:
    ways_out = {
        errno.ENOSPC: "free some space there",
        errno.EDQUOT: "free some of your quota there",
        errno.EACCES: f"give this user the right to write there (it is owned by {_owner(path)})",
        errno.EPERM: f"give this user the right to write there (it is owned by {_owner(path)})",
        errno.EROFS: "mount it so that it can be written",
        errno.EEXIST: "a file stands in its place: move that away",
        errno.ENOTDIR: "a file stands in its place: move that away",
    }
    way_out = ways_out.get(error.errno or 0, "see the cause")
    cause = error.strerror or str(error)
    return StartupError(f"data folder {path} cannot be used: {cause}; {way_out}, or choose another with --data-dir")


def _owner(path: Path) -> str:
    """Return the owner of the folder, or of the nearest one above it that exists."""
    for folder in (path, *path.parents):
        with suppress(OSError, KeyError):
            return folder.owner()
    return "nobody known"


def new_boot_id() -> BootId:
    return BootId(secrets.token_hex(8))
