"""What the leader wrote is read only by code that writes, merges, sends or acts on it; all others see what is."""

from __future__ import annotations

import ast
from pathlib import Path

import exo_lite

PACKAGE = Path(exo_lite.__file__).parent

READERS = {
    "daemon/parts.py",
    "domain/cluster_events.py",
    "domain/cluster_state.py",
    "node/decisions.py",
    "node/event_log.py",
    "node/heartbeats.py",
    "node/leader.py",
    "node/meetings.py",
    "node/eviction.py",
    "node/shards.py",
    "node/pinned_models.py",
}


def _reads_what_is_written(path: Path) -> bool:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return any(isinstance(one, ast.Attribute) and one.attr == "written" for one in ast.walk(tree))


def test_nobody_else_reads_the_placement_as_the_leader_wrote_it():
    paths = [path for folder in ("daemon", "domain", "node") for path in (PACKAGE / folder).rglob("*.py")]
    assert {str(path.relative_to(PACKAGE)) for path in paths if _reads_what_is_written(path)} == READERS
