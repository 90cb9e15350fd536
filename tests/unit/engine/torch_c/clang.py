"""A clang for tests, from the package ziglang: it has the headers of every system, and so compiles for all.

Zig's own `zig cc` would first build the system's libraries, for a minute; these compile with `zig clang`, which is
plain clang, and link with what the machine has.
"""

from __future__ import annotations

import platform
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path


def zig_folder() -> Path:
    """The package's folder: `zig` itself and its headers."""
    spec = find_spec("ziglang")
    assert spec is not None, "the suite needs the package ziglang"
    assert spec.origin is not None
    return Path(spec.origin).parent


def write_clang(folder: Path) -> Path:
    """Write a command that can stand in the environment variable CC, and return its path."""
    zig, command = zig_folder(), folder / "clang"
    target = f"--target={platform.machine()}-linux-gnu"
    command.write_text(f'#!/bin/sh\nexec {zig}/zig clang {target} -isystem {zig}/lib/include "$@"\n')
    command.chmod(0o755)
    return command


def cross_clang(target: str, header_folders: Sequence[str]) -> list[str]:
    """A command that compiles for another system, with these folders of zig's headers."""
    zig = zig_folder()
    folders = [zig / "lib" / "include", *(zig / "lib" / "libc" / "include" / name for name in header_folders)]
    return [f"{zig}/zig", "clang", f"--target={target}", "-nostdinc", *(f"-isystem{folder}" for folder in folders)]
