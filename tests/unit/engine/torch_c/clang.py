"""A clang for tests, from the package ziglang: it has the headers of every system, and so compiles for all."""

from __future__ import annotations

import sys
from pathlib import Path

CLANG = (sys.executable, "-m", "ziglang", "cc")


def write_clang(folder: Path) -> Path:
    """Write a command that can stand in the environment variable CC, and return its path."""
    command = folder / "clang"
    command.write_text(f'#!/bin/sh\nexec {" ".join(CLANG)} "$@"\n')
    command.chmod(0o755)
    return command
