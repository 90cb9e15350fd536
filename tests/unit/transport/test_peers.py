"""Connections between nodes begin in one place, so that credentials reach them all and a fake can stand in."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import exo_lite

PACKAGE = Path(exo_lite.__file__).parent
FACTORY = "transport/peers.py"
ITS_TOOLS = ("transport/channels.py", "transport/in_stream.py", "transport/stage_server.py", "transport/v1/")
"""What the factory is made of: only it calls them."""
BUILT_BY_IT = {
    *("NodeClient", "WorkerClient", "InStream", "steps_from", "results_from"),
    *("open_channel", "open_stream_channel", "insecure_channel", "secure_channel"),
    *("create_server", "create_blocking_server", "create_stage_server"),
    *("add_insecure_port", "add_secure_port"),
}


def calls(path: Path) -> Iterator[tuple[str, int]]:
    """The name of each function that a module calls, without what it is looked up in, and the line."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            name = getattr(node.func, "attr", getattr(node.func, "id", ""))
            yield name, node.lineno


def test_no_channel_client_or_server_is_made_but_by_the_factory() -> None:
    made = {
        f"{path.relative_to(PACKAGE)}:{line} {name}"
        for path in PACKAGE.rglob("*.py")
        for name, line in calls(path)
        if name in BUILT_BY_IT and not str(path.relative_to(PACKAGE)).startswith((FACTORY, *ITS_TOOLS))
    }
    assert made == set()
    assert {name for name, _ in calls(PACKAGE / FACTORY)} >= {
        "NodeClient",
        "WorkerClient",
        "steps_from",
        "results_from",
    }
