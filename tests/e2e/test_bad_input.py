"""What people get wrong, and what machines break: each a clear error with its cause and its way out."""

from __future__ import annotations

import asyncio
import json
import os
import re
import secrets
import shutil
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from exo_lite.domain.errors import IncompatibleVersion
from exo_lite.domain.ids import BootId, NodeId
from exo_lite.domain.node import PROTOCOL_VERSION, Device, MemoryUse, NodeIdentity, NodeStatus
from exo_lite.store.model_store import ModelStore
from exo_lite.transport.node_server import serve_node
from tests.daemons import Daemons, Node, run_cli, wait_until
from tests.loopback import PEERS, handlers_of

MODEL = "smollm2-135m"
WEIGHTS = "model.safetensors"
DEFAULT_PORTS = (52414, 52415)


@pytest.fixture
def served(daemons: Daemons) -> Node:
    """One node that serves the model with a short context."""
    node = daemons.nodes.get("a") or daemons.start("a")
    node.load(MODEL, context=96, slots=2)
    return node


def chat_body(model: str, prompt: str = "Hello") -> dict[str, object]:
    return {"model": model, "messages": [{"role": "user", "content": prompt}], "max_tokens": 4}


def error_of(reply: Any) -> dict[str, Any]:
    error: dict[str, Any] = reply.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return error


def test_an_unknown_model_is_404_with_what_may_have_been_meant(served: Node) -> None:
    calls = [
        ("/v1/chat/completions", chat_body("smolm2-135")),
        ("/v1/completions", {"model": "smolm2-135", "prompt": "Hello"}),
        ("/api/v1/models/smolm2-135/load", {}),
    ]
    for path, body in calls:
        reply = served.post(path, body)
        assert (reply.status_code, error_of(reply)["code"]) == (404, "model_not_found")
        assert f"did you mean {MODEL}" in error_of(reply)["message"]
        assert reply.headers["x-should-retry"] == "false"
    for name in ("GPT-4", "../../etc/passwd"):
        reply = served.post("/v1/chat/completions", chat_body(name))
        assert (reply.status_code, error_of(reply)["code"]) == (404, "model_not_found")
        assert "exo-lite models" in error_of(reply)["message"]


def test_a_model_that_does_not_fit_is_507_and_exit_code_4_with_the_arithmetic(own_daemons: Daemons) -> None:
    small = own_daemons.start("small", memory="50MiB")
    reply = small.post(f"/api/v1/models/{MODEL}/load")
    assert (reply.status_code, error_of(reply)["code"]) == (507, "model_does_not_fit")
    assert reply.headers["x-should-retry"] == "false"
    done = run_cli("run", MODEL, "Hello", "--http", small.http)
    assert (done.returncode, done.stdout) == (4, "")
    for text in (error_of(reply)["message"], done.stderr):
        for part in (
            f"{MODEL} needs",
            "1 node offers 50.0 MiB in all: short by",
            "small: offers 50.0 MiB",
            "Add nodes",
        ):
            assert part in text
    assert small.state()["models"] == []


def test_a_prompt_beyond_the_context_is_refused_before_any_hop(served: Node) -> None:
    (worker,) = served.worker_pids()
    os.kill(worker, signal.SIGSTOP)  # who asks it waits
    try:
        started_s = time.monotonic()
        reply = served.post("/v1/chat/completions", chat_body(MODEL, "word " * 200))
        assert time.monotonic() - started_s < 2.0
        done = run_cli("run", MODEL, "word " * 200, "--http", served.http)
    finally:
        os.kill(worker, signal.SIGCONT)
    assert (reply.status_code, error_of(reply)["code"]) == (400, "context_length_exceeded")
    message = error_of(reply)["message"]
    assert "maximum context length is 96 tokens" in message
    assert int(message.split("you requested ")[1].split()[0]) > 200
    assert "--context" in message
    assert (done.returncode, done.stdout) == (1, "")
    assert "maximum context length is 96 tokens" in done.stderr


@pytest.fixture
def broken_store(tmp_path: Path, smollm2_store: ModelStore) -> Path:
    """A models folder whose weight file has the right length and holds nothing."""
    original = smollm2_store.get(MODEL).path
    folder = tmp_path / "models" / MODEL
    folder.mkdir(parents=True)
    for path in original.iterdir():
        if path.is_file() and path.name != WEIGHTS:  # another test may have had it quantized
            shutil.copy(path, folder)
    with (folder / WEIGHTS).open("wb") as file:
        file.truncate((original / WEIGHTS).stat().st_size)
    return folder.parent


def test_a_corrupt_weight_file_fails_the_model_and_not_the_daemon(
    own_daemons: Daemons, broken_store: Path, smollm2_store: ModelStore
) -> None:
    node = own_daemons.start("poorly", flags=["--models-dir", str(broken_store)])
    assert node.post(f"/api/v1/models/{MODEL}/load", {"context": 256}).status_code == 202

    def failed() -> dict[str, Any] | None:
        model = node.model(MODEL)
        return model if model and model["state"] == "failed" else None

    reason = wait_until(failed, "the model fails")["reason"]
    assert reason.startswith("poorly: ")
    assert WEIGHTS in reason
    assert "not a sound safetensors file" in reason
    reply = node.post("/v1/chat/completions", chat_body(MODEL))
    assert (reply.status_code, WEIGHTS in error_of(reply)["message"]) == (503, True)
    assert node.get("/health").status_code == 200
    done = run_cli("load", MODEL, "--wait", "--context", "256", "--http", node.http)
    assert (done.returncode, done.stdout) == (1, "")
    assert WEIGHTS in done.stderr

    (broken_store / MODEL / WEIGHTS).unlink()
    (broken_store / MODEL / WEIGHTS).symlink_to(smollm2_store.get(MODEL).path / WEIGHTS)
    assert len(node.post(f"/api/v1/models/{MODEL}/load", {"context": 256}).json()) == 3
    wait_until(lambda: node.readyz() == 200, "the repaired model is ready")


def test_a_truncated_weight_file_is_named_and_never_loaded(own_daemons: Daemons, broken_store: Path) -> None:
    with (broken_store / MODEL / WEIGHTS).open("r+b") as file:
        file.truncate(1000)
    node = own_daemons.start("poorly", flags=["--models-dir", str(broken_store)])
    reply = node.post(f"/api/v1/models/{MODEL}/load")
    assert (reply.status_code, error_of(reply)["code"]) == (400, "invalid_model")
    done = run_cli("load", MODEL, "--http", node.http)
    assert (done.returncode, done.stdout) == (1, "")
    for text in (error_of(reply)["message"], done.stderr):
        assert "damaged" in text
        assert WEIGHTS in text
        assert f"exo-lite rm {MODEL}" in text
    assert node.worker_pids() == []


def _is_no_json(config: dict[str, Any]) -> str:
    return json.dumps(config)[:-10]


def _is_another_kind(config: dict[str, Any]) -> str:
    return json.dumps({**config, "model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]})


def _has_another_width(config: dict[str, Any]) -> str:
    return json.dumps({**config, "hidden_size": 512})


@pytest.fixture
def download(smollm2_store: ModelStore) -> Iterator[Path]:
    """An empty folder on the disk of the demo model, whose files can be linked into it."""
    with TemporaryDirectory(dir=smollm2_store.models_dir.parent) as folder:
        yield Path(folder)


@pytest.mark.parametrize(
    ("broken", "named"),
    [(_is_no_json, "config.json"), (_is_another_kind, "GPT2LMHeadModel"), (_has_another_width, "512")],
)
def test_a_wrong_config_is_refused_at_import_and_leaves_nothing(
    tmp_path: Path,
    download: Path,
    smollm2_store: ModelStore,
    broken: Callable[[dict[str, Any]], str],
    named: str,
) -> None:
    original = smollm2_store.get(MODEL).path
    folder, models_dir = download, tmp_path / "models"
    for path in original.iterdir():
        if path.is_file() and path.name not in ("config.json", "manifest.json"):
            (folder / path.name).hardlink_to(path)
    config = json.loads((original / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(broken(config), encoding="utf-8")
    done = run_cli("import", str(folder), "--as", "mine", "--models-dir", str(models_dir))
    assert (done.returncode, done.stdout) == (1, "")
    assert named in done.stderr
    assert "Traceback" not in done.stderr
    assert not models_dir.exists() or list(models_dir.iterdir()) == []


def node_flags(folder: Path) -> list[str]:
    """A daemon that finds nobody, on free ports unless told otherwise."""
    alone = ["--no-mdns", "--host", "127.0.0.1", "--device", "cpu", "--memory", "100MiB", "--cluster", folder.name]
    return [*alone, "--data-dir", str(folder / "data"), "--models-dir", str(folder / "models")]


@pytest.fixture
def taken() -> Iterator[str]:
    """An address on loopback where somebody listens."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        yield f"127.0.0.1:{sock.getsockname()[1]}"


def test_a_grpc_port_that_was_asked_for_and_is_taken_is_exit_code_1(tmp_path: Path, taken: str) -> None:
    port = taken.split(":")[1]
    done = run_cli("node", *node_flags(tmp_path), "--port", port, "--http", "127.0.0.1:0")
    assert (done.returncode, done.stdout) == (1, "")
    assert f"{taken} cannot be bound: another program has it" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_http_port_that_was_asked_for_and_is_taken_is_exit_code_1(tmp_path: Path, taken: str) -> None:
    done = run_cli("node", *node_flags(tmp_path), "--port", "0", "--http", taken)
    assert (done.returncode, done.stdout) == (1, "")
    assert f"HTTP port {taken.split(':')[1]} of 127.0.0.1 is in use: choose another with --http" in done.stderr
    assert "Traceback" not in done.stderr


def test_default_ports_that_are_taken_move_and_say_so(own_daemons: Daemons) -> None:
    with ExitStack() as occupied:
        for port in DEFAULT_PORTS:
            with suppress(OSError):  # taken already, which is as good
                occupied.enter_context(socket.create_server(("127.0.0.1", port)))
        node = own_daemons.start("moved", own_ports=False)
        moved = [event["text"] for event in node.state()["events"] if event["kind"] == "port_moved"]
        address = node.state()["nodes"][0]["address"]
    assert sorted(moved) == [
        f"port 52414 is in use: gRPC listens on {address} instead",
        f"port 52415 is in use: HTTP listens on {node.http} instead",
    ]
    assert not {int(one.split(":")[1]) for one in (address, node.http)} & {*DEFAULT_PORTS}


def test_a_second_daemon_on_one_data_folder_is_refused(own_daemons: Daemons) -> None:
    first = own_daemons.start("first")
    second = run_cli("node", "--host", "127.0.0.1", "--no-mdns", "--data-dir", str(first.data_dir))
    assert (second.returncode, second.stdout) == (1, "")
    assert f"another exo-lite daemon runs on {first.data_dir}" in second.stderr
    assert "--data-dir" in second.stderr
    assert first.get("/health").status_code == 200


@pytest.mark.parametrize("host", ["0.0.0.0", "[::]"])
def test_http_beyond_loopback_without_a_key_is_refused_before_it_binds(tmp_path: Path, host: str) -> None:
    done = run_cli("node", *node_flags(tmp_path), "--port", "0", "--http", f"{host}:0")
    assert (done.returncode, done.stdout) == (1, "")
    assert "can be reached from other machines: set an API key" in done.stderr
    assert "EXO_LITE_API_KEY" in done.stderr
    assert not (tmp_path / "data" / "http.address").exists()


def test_the_api_key_opens_every_route_but_health(own_daemons: Daemons) -> None:
    key = secrets.token_hex(8)
    node = own_daemons.start("locked", flags=["--api-key", key])
    closed = [node.get("/api/v1/state"), node.get("/v1/models"), node.post("/v1/chat/completions", chat_body(MODEL))]
    closed += [node.get("/readyz"), node.get("/metrics"), node.post(f"/api/v1/models/{MODEL}/load")]
    for reply in closed:
        assert (reply.status_code, error_of(reply)["type"]) == (401, "authentication_error")
    assert node.get("/health").status_code == 200
    locked_out = run_cli("status", "--http", node.http)
    assert (locked_out.returncode, locked_out.stdout) == (1, "")
    assert "--api-key" in locked_out.stderr
    assert key not in node.log_path.read_text(encoding="utf-8")

    node.client.headers["Authorization"] = f"Bearer {key}"
    assert [node.get(path).status_code for path in ("/api/v1/state", "/v1/models", "/metrics")] == [200, 200, 200]
    assert run_cli("status", "--http", node.http, EXO_LITE_API_KEY=key).returncode == 0


class PeerOfTomorrow:
    """A node that speaks another protocol and takes in whoever comes, or nobody."""

    def __init__(self, cluster: str, address: str, *, is_polite: bool) -> None:
        identity = NodeIdentity(
            node_id=NodeId(secrets.token_hex(8)),
            boot_id=BootId(secrets.token_hex(8)),
            name="tomorrow",
            cluster=cluster,
            version="9.9.9",
            protocol_version=PROTOCOL_VERSION + 1,
            addresses=(address,),
            http_address="127.0.0.1:1",
        )
        self.status = NodeStatus(identity, 0, Device("cpu", "cpu", 1), MemoryUse(0))
        self._is_polite = is_polite

    def identity(self) -> NodeIdentity:
        return self.status.identity

    async def on_handshake(self, status: NodeStatus, seen_from: str | None) -> NodeStatus:
        if self._is_polite:
            return self.status
        raise IncompatibleVersion("tomorrow does not speak with yesterday")


@pytest.mark.parametrize("is_polite", [True, False], ids=["it would take us", "it refuses us"])
async def test_nodes_of_different_versions_refuse_each_other_and_say_why(own_daemons: Daemons, is_polite: bool) -> None:
    server = PEERS.node_server()
    address = f"127.0.0.1:{PEERS.bind(server, '127.0.0.1', 0)}"
    peer = PeerOfTomorrow(own_daemons.cluster, address, is_polite=is_polite)
    serve_node(server, handlers_of(peer))
    await server.start()
    theirs = f"tomorrow runs exo-lite 9.9.9 (protocol {PROTOCOL_VERSION + 1})"
    try:
        node = await asyncio.to_thread(own_daemons.start, "today", flags=["--peer", address])
        refusals = await asyncio.to_thread(wait_until, lambda: _refusals(node), "the daemon tells of the refusal")
        today = node.state()["nodes"][0]["address"]
        async with PEERS.node(today) as client:
            with pytest.raises(IncompatibleVersion, match=re.escape(f"{theirs}, today runs")):
                await client.handshake(peer.status, timeout_s=5.0)
    finally:
        await server.stop(grace=None)
    expected = theirs if is_polite else "tomorrow does not speak with yesterday"
    assert expected in refusals[0]["text"]
    assert "install the same exo-lite version on both" in refusals[0]["fix"]
    assert node.seen() == {"today": "alive"}


def _refusals(node: Node) -> list[dict[str, Any]] | None:
    return [event for event in node.state()["events"] if event["kind"] == "handshake_refused"] or None
