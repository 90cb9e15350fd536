"""Real daemons for tests and measurements: started on loopback, asked over HTTP, killed by their process id."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Self, TypeVar

import httpx2

T = TypeVar("T")

MIB = 1024**2
PROGRAM = (sys.executable, "-m", "exo_lite")


def clean_environment() -> dict[str, str]:
    """This process's, without the settings that somebody made for exo-lite."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("EXO_LITE_")}
    return {**own, "EXO_LITE_CONFIG": os.devnull, "NO_PROXY": "127.0.0.1"}


def run_cli(
    *arguments: str, prompt: str | None = None, timeout_s: float = 60.0, **environment: str
) -> subprocess.CompletedProcess[str]:
    """The real command line, with `prompt` on its standard input, to its end."""
    return subprocess.run(
        [*PROGRAM, *arguments],
        input=prompt or "",
        capture_output=True,
        text=True,
        timeout=timeout_s,
        env={**clean_environment(), **environment},
        check=False,
    )


def wait_until(look: Callable[[], T | None], what: str, *, timeout_s: float = 30.0) -> T:
    """The first value of `look` that is neither None nor False; AssertionError with `what` after the deadline."""
    deadline_s = time.monotonic() + timeout_s
    while True:
        value = look()
        if value is not None and value is not False:
            return value
        if time.monotonic() > deadline_s:
            raise AssertionError(f"{what}: not within {timeout_s:.0f} s")
        time.sleep(0.02)


@dataclass
class Node:
    """One daemon of a test cluster."""

    name: str
    data_dir: Path
    process: subprocess.Popen[bytes]
    log_path: Path
    client: httpx2.Client = field(default_factory=lambda: httpx2.Client(timeout=300.0, trust_env=False))

    @cached_property
    def http(self) -> str:
        return (self.data_dir / "http.address").read_text(encoding="ascii").strip()

    @property
    def is_running(self) -> bool:
        return self.process.poll() is None

    def state(self) -> dict[str, Any]:
        return self.get("/api/v1/state").json()

    def get(self, path: str) -> httpx2.Response:
        return self.client.get(f"http://{self.http}{path}")

    def post(self, path: str, body: object = None) -> httpx2.Response:
        return self.client.post(f"http://{self.http}{path}", json={} if body is None else body)

    def seen(self) -> dict[str, str]:
        """Name to state of every node, as this one sees it."""
        return {node["name"]: node["state"] for node in self.state()["nodes"]}

    def model(self, model_id: str) -> dict[str, Any] | None:
        return next((model for model in self.state()["models"] if model["id"] == model_id), None)

    def load(self, model_id: str, *, timeout_s: float = 60.0, **request: object) -> dict[str, Any]:
        """Place a model and wait until it is ready. Returns its part of the state."""
        reply = self.post(f"/api/v1/models/{model_id}/load", request)
        assert reply.status_code == 202, reply.text
        return self.wait_ready(model_id, min_epoch=reply.json()["epoch"], timeout_s=timeout_s)

    def wait_ready(self, model_id: str, *, min_epoch: int = 0, timeout_s: float = 60.0) -> dict[str, Any]:
        """Wait for the model as it was placed in this epoch or later: another node may lead, and be ahead of this one.

        Returns its part of the state.
        """

        def look() -> dict[str, Any] | None:
            model = self.model(model_id)
            if model is None or model["epoch"] < min_epoch:
                return None
            assert model["state"] != "failed", model
            return model if model["state"] == "ready" else None

        return wait_until(look, f"{model_id} ready on {self.name}", timeout_s=timeout_s)

    def readyz(self) -> int:
        return self.get("/readyz").status_code

    def chat(self, model_id: str, prompt: str, **options: object) -> dict[str, Any]:
        body = {"model": model_id, "messages": [{"role": "user", "content": prompt}], "temperature": 0, **options}
        reply = self.post("/v1/chat/completions", body)
        assert reply.status_code == 200, reply.text
        return reply.json()

    def stream(self, path: str, body: dict[str, object]) -> Iterator[dict[str, Any]]:
        """The documents of a streamed answer; the last one may be an error."""
        with self.client.stream("POST", f"http://{self.http}{path}", json={**body, "stream": True}) as reply:
            assert reply.status_code == 200, reply.read()
            for line in reply.iter_lines():
                if line.startswith("data: ") and line != "data: [DONE]":
                    yield json.loads(line.removeprefix("data: "))

    def worker_pids(self) -> list[int]:
        """Of its living worker processes."""
        listing = subprocess.run(
            ["ps", "-o", "pid=,args=", "--ppid", str(self.process.pid)], capture_output=True, text=True, check=False
        )
        return [int(line.split()[0]) for line in listing.stdout.splitlines() if "exo_lite.worker" in line]

    def signal(self, number: signal.Signals) -> None:
        """To the daemon and its workers, as when the whole machine is gone or hangs."""
        for pid in [self.process.pid, *self.worker_pids()]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def kill(self) -> None:
        self.signal(signal.SIGKILL)
        self.process.wait()

    def stop(self, *, timeout_s: float = 30.0) -> int:
        """SIGTERM; returns the exit code."""
        self.process.terminate()
        return self.process.wait(timeout=timeout_s)


class Stream:
    """A streamed answer, read on a thread of its own from the moment it is made."""

    def __init__(self, node: Node, path: str, body: dict[str, object]) -> None:
        self.documents: list[dict[str, Any]] = []
        self.is_done = False
        """Whether `[DONE]` has come."""
        self.ended_at_s: float | None = None
        """Of time.monotonic."""
        self.failure: Exception | None = None
        self._node, self._path = node, path
        self._body = {**body, "stream": True, "return_token_ids": True}
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    @property
    def token_ids(self) -> list[int]:
        choices = [choice for document in list(self.documents) for choice in document.get("choices", ())]
        return [token_id for choice in choices for token_id in choice.get("token_ids", ())]

    @property
    def error(self) -> dict[str, Any] | None:
        """Of the last document, if it is one."""
        return self.documents[-1].get("error") if self.documents else None

    def wait_tokens(self, count: int) -> None:
        wait_until(lambda: len(self.token_ids) >= count or self.ended_at_s is not None, f"{count} tokens")
        assert self.ended_at_s is None, self.documents[-1:]

    def join(self, timeout_s: float = 60.0) -> None:
        """Wait until the answer ends, in whatever way."""
        self._thread.join(timeout_s)
        assert self.ended_at_s is not None, f"the stream from {self._node.name} did not end within {timeout_s} s"

    def _read(self) -> None:
        url = f"http://{self._node.http}{self._path}"
        try:
            with self._node.client.stream("POST", url, json=self._body) as reply:
                for line in reply.iter_lines():
                    self._take(line)
        except httpx2.HTTPError as error:
            self.failure = error
        finally:
            self.ended_at_s = time.monotonic()

    def _take(self, line: str) -> None:
        if line == "data: [DONE]":
            self.is_done = True
        elif line.startswith("data: "):
            self.documents.append(json.loads(line.removeprefix("data: ")))


class Daemons:
    """A cluster of its own. Every daemon still alive is killed at the end, and its log kept in `folder`."""

    def __init__(self, folder: Path, models_dir: Path) -> None:
        self.folder = folder
        self.models_dir = models_dir
        self.cluster = f"test-{secrets.token_hex(4)}"
        self.nodes: dict[str, Node] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.wake()
        for node in self.nodes.values():
            if node.is_running:
                node.kill()
            node.client.close()

    def wake(self) -> None:
        """Let every process go on that a test has stopped, workers too."""
        for node in self.running:
            node.signal(signal.SIGCONT)

    def start(
        self,
        name: str,
        *,
        memory: str | None = "600MiB",
        threads: int | None = 1,
        node_id: str | None = None,
        own_ports: bool = True,
        flags: Sequence[str] = (),
        shell: str = "",
    ) -> Node:
        """Start a daemon, for the first time or again, and wait until it serves.

        Without `own_ports` it looks for the default ones; without `memory` and `threads` it offers what it finds.
        `flags` win over the usual ones.
        `shell` is run first in the daemon's own process, e.g. to set limits.
        """
        host = ("--host", "127.0.0.1", "--worker-ports", "0")
        ports = ("--port", "0", "--http", "127.0.0.1:0") if own_ports else ()
        sizes = (*(("--memory", memory) if memory else ()), *(("--threads", str(threads)) if threads else ()))
        prefix = ("bash", "-c", f'{shell} && exec "$@"', "bash") if shell else ()
        return self.launch(name, (*host, *ports, *sizes, *flags), node_id=node_id, prefix=prefix)

    def launch(
        self,
        name: str,
        flags: Sequence[str],
        *,
        node_id: str | None = None,
        prefix: Sequence[str] = (),
        make: Callable[..., Node] = Node,
    ) -> Node:
        """Start a daemon with these flags and wait until it serves. `prefix` is put before its command."""
        data_dir = self.folder / name
        data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        if node_id is not None:
            (data_dir / "node_id").write_text(node_id, encoding="ascii")
        if name in self.nodes:
            self.nodes[name].client.close()
            (data_dir / "http.address").unlink(missing_ok=True)  # of a daemon that was killed
        command = [
            *(*prefix, *PROGRAM, "node", "--name", name, "--cluster", self.cluster, "--device", "cpu"),
            *("--data-dir", str(data_dir), "--models-dir", str(self.models_dir), *flags),
        ]
        log_path = self.folder / f"{name}.log"
        with log_path.open("ab") as log:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=clean_environment()
            )
        node = self.nodes[name] = make(name, data_dir, process, log_path)

        def serves() -> bool:
            assert process.poll() is None, log_path.read_text(encoding="utf-8")
            return (data_dir / "http.address").exists()

        wait_until(serves, f"{name} serves")
        return node

    def start_all(self, memory: dict[str, str], *, threads: int = 1) -> list[Node]:
        """Start several, and wait until each sees all alive."""
        nodes = [self.start(name, memory=size, threads=threads) for name, size in memory.items()]
        self.wait_joined()
        return nodes

    @property
    def running(self) -> list[Node]:
        return [node for node in self.nodes.values() if node.is_running]

    def wait_joined(self, *, timeout_s: float = 10.0) -> None:
        expected = {node.name for node in self.running}

        def joined(node: Node) -> bool:
            return {name for name, state in node.seen().items() if state == "alive"} == expected

        for name in expected:
            wait_until(partial(joined, self.nodes[name]), f"{name} sees {expected}", timeout_s=timeout_s)
