"""Clusters of daemons in this process: started, asked what they see, and waited for."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from functools import partial
from pathlib import Path
from typing import Any

from exo_lite.daemon.main import start_daemon
from exo_lite.daemon.parts import Daemon
from exo_lite.node.data_folder import DataFolder
from exo_lite.node.node_config import NodeConfig
from tests.waiting import until

JOIN_TIMEOUT_S = 5.0


class Cluster:
    """Starts daemons of a cluster that no other test has."""

    def __init__(self, folder: Path) -> None:
        self.name = f"test-{secrets.token_hex(4)}"
        self.folder = folder

    @asynccontextmanager
    async def node(
        self,
        name: str,
        *,
        port: int = 0,
        peers: tuple[str, ...] = (),
        mdns: bool = False,
        cluster: str | None = None,
        node_id: str | None = None,
    ) -> AsyncIterator[Daemon]:
        config = NodeConfig(
            name=name,
            cluster=cluster or self.name,
            host="127.0.0.1",
            port=port,
            http=None,
            peers=peers,
            mdns=mdns,
            memory_bytes=2**20,
            threads=1,
            device="cpu",
            data_dir=self.folder / name,
            models_dir=self.folder / "models",
            log_format="text",
            api_key=None,
            worker_ports=(0, 0),
        )
        with closing(DataFolder(config.data_dir)) as folder:
            if node_id is not None:
                (config.data_dir / "node_id").write_text(node_id)
            async with start_daemon(config, folder, "127.0.0.1:1") as daemon:
                yield daemon


def document(daemon: Daemon) -> dict[str, Any]:
    return dict(daemon.service.state())


def seen_by(daemon: Daemon) -> dict[str, str]:
    """Name to state, of every node that it lists."""
    return {node["name"]: node["state"] for node in document(daemon)["nodes"]}


def events_of(daemon: Daemon, kind: str) -> list[dict[str, Any]]:
    return [event for event in document(daemon)["events"] if event["kind"] == kind]


def address_of(daemon: Daemon) -> str:
    return daemon.cluster.state.identity.address


async def joined(*daemons: Daemon, timeout_s: float = JOIN_TIMEOUT_S) -> None:
    expected = {daemon.cluster.state.identity.name: "alive" for daemon in daemons}
    for daemon in daemons:
        what = f"{daemon.cluster.state.identity.name} sees all of {sorted(expected)}"
        await until(partial(_sees, daemon, expected), what, timeout_s=timeout_s)


def _sees(daemon: Daemon, expected: dict[str, str]) -> bool:
    return seen_by(daemon) == expected
