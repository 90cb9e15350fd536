"""The daemon's time comes from its root: on a loop whose time jumps, all of it jumps."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from exo_lite import node

PACKAGE = Path(str(node.__file__)).parent
ITS_SOURCE = "system_clock.py"
CLOCKS = {"time", "datetime", "sched"}


def imported(path: Path) -> Iterator[str]:
    for statement in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(statement, ast.Import):
            yield from (alias.name for alias in statement.names)
        elif isinstance(statement, ast.ImportFrom):
            yield statement.module or ""


def test_nothing_in_a_daemon_asks_the_machine_for_the_time() -> None:
    asking = {path.name for path in PACKAGE.rglob("*.py") if CLOCKS & set(imported(path))}
    assert asking == {ITS_SOURCE}
