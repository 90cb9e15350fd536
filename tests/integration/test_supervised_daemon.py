"""Real daemons in one event loop, in which a task throws what nobody planned: they live, and do its work again."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import pytest

from exo_lite.daemon.main import start_daemon
from exo_lite.daemon.parts import Daemon
from exo_lite.domain.ids import ModelId
from exo_lite.domain.load_options import LoadRequest
from exo_lite.node import leader as leader_module
from exo_lite.node import own_status
from exo_lite.node.data_folder import DataFolder
from exo_lite.node.event_log import EventLog
from exo_lite.node.heartbeats import Heartbeats
from exo_lite.node.meetings import Meetings
from exo_lite.node.membership import Membership
from exo_lite.node.node_config import NodeConfig
from exo_lite.node.shards import ShardHost
from exo_lite.node.worker_process import WorkerProcess
from exo_lite.store.model_store import ModelStore
from tests.unit.store.tiny_models import SPEC, random_tensors, write_hf_folder
from tests.waiting import until

NUM_FAILURES = 3
TINY = ModelId("tiny")


class Broken(Exception):
    """What no code expects."""


@asynccontextmanager
async def node(folder: Path, name: str, cluster: str, *peers: str) -> AsyncIterator[Daemon]:
    config = NodeConfig(
        name=name,
        cluster=cluster,
        host="127.0.0.1",
        port=0,
        http=None,
        peers=peers,
        mdns=False,
        memory_bytes=2**26,
        threads=1,
        device="cpu",
        data_dir=folder / name,
        models_dir=folder / "models",
        log_format="text",
        api_key=None,
    )
    with closing(DataFolder(config.data_dir)) as data:
        async with start_daemon(config, data, "127.0.0.1:1") as daemon:
            yield daemon


@pytest.fixture
def breaks(monkeypatch: pytest.MonkeyPatch) -> Callable[[object, str], list[int]]:
    """Makes a function throw its first calls; returns the list of them, as it grows."""

    def install(owner: object, name: str) -> list[int]:
        sound: Callable[..., Any] = getattr(owner, name)
        thrown: list[int] = []

        def once_more(*args: object, **kwargs: object) -> Any:
            if len(thrown) < NUM_FAILURES:
                thrown.append(1)
                raise Broken("with nobody to take it")
            return sound(*args, **kwargs)

        monkeypatch.setattr(owner, name, once_more)
        return thrown

    return install


def import_tiny(folder: Path) -> None:
    source = write_hf_folder(folder / "source", SPEC, random_tensors(SPEC))
    ModelStore(folder / "models").import_path(source, TINY, lambda done, total: None)


def held(daemon: Daemon) -> list[ModelId]:
    return list(daemon.cluster.state.self_status.models)


def seen_by(daemon: Daemon) -> dict[str, str]:
    return {member["name"]: member["state"] for member in dict(daemon.service.state())["nodes"]}  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (ModelStore, "survey"),
        (own_status, "memory_use"),
        (Membership, "_tick"),
        (Heartbeats, "_beat"),
        (Meetings, "shake_hands"),
        (ShardHost, "_reconcile"),
        (leader_module, "next_actions"),
        (Daemon, "_tell_others"),
        (EventLog, "record_change"),
    ],
    ids=lambda one: one if isinstance(one, str) else "",
)
async def test_whatever_throws_in_a_task_two_daemons_live_and_meet(
    owner: object,
    name: str,
    tmp_path: Path,
    breaks: Callable[[object, str], list[int]],
    caplog: pytest.LogCaptureFixture,
):
    thrown, cluster = breaks(owner, name), f"test-{secrets.token_hex(4)}"
    with caplog.at_level(logging.ERROR):
        async with (
            node(tmp_path, "a", cluster) as a,
            node(tmp_path, "b", cluster, a.cluster.state.identity.address) as b,
        ):
            both = {"a": "alive", "b": "alive"}
            await until(lambda: len(thrown) == NUM_FAILURES, "it has thrown")
            await until(lambda: seen_by(a) == seen_by(b) == both, "both see both")
    told = [record.getMessage() for record in caplog.records if "Broken" in record.__dict__.get("cause", "")]
    assert told
    assert all(line.endswith(" failed, and goes on") for line in told)


async def test_models_stay_listed_while_their_folder_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    import_tiny(tmp_path)
    async with node(tmp_path, "a", f"test-{secrets.token_hex(4)}") as a:
        await until(lambda: held(a) == [TINY], "it is listed")
        asked: list[int] = []

        def unreadable(self: ModelStore) -> list[object]:
            asked.append(1)
            raise OSError(24, "Too many open files")

        monkeypatch.setattr(ModelStore, "survey", unreadable)
        await until(lambda: len(asked) >= 2, "it was read again")
        assert held(a) == [TINY]
        monkeypatch.undo()
        ModelStore(tmp_path / "models").remove(TINY)
        await until(lambda: held(a) == [], "and read once more")


async def test_a_worker_that_cannot_be_followed_is_a_lost_shard_and_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    import_tiny(tmp_path)

    async def broken(self: WorkerProcess, process: asyncio.subprocess.Process) -> None:
        raise Broken("in place of ports")

    async with node(tmp_path, "a", f"test-{secrets.token_hex(4)}") as a:
        await until(lambda: held(a) == [TINY], "it is listed")
        with monkeypatch.context() as patch:
            patch.setattr(WorkerProcess, "_start", broken)
            await a.service.load(TINY, LoadRequest(context_length=32))

            def reason() -> str | None:
                instance = a.cluster.state.instance_of(TINY)
                return instance.reason if instance and instance.state == "failed" else None

            text = await until(reason, "it is given up", timeout_s=30.0)
            assert "cannot be watched: Broken: in place of ports" in text
        assert seen_by(a) == {"a": "alive"}
