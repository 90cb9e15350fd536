"""The servers that are measured, started and loaded: nodes of exo_lite, llama.cpp."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.bench.contender import LOAD_TIMEOUT_S, ROOT
from tests.bench.models import gguf_file, model_folder
from tests.bench.peers import venv_python
from tests.daemons import Daemons, Node

MEMORY = "6GiB"
"""That each node offers."""


@dataclass(frozen=True, slots=True)
class Setting:
    """What is served, and how."""

    model: str
    models_dir: Path
    quant: str = "int8"
    gguf_kind: str = "q8_0"
    context: int = 2560
    slots: int = 8
    strategy: str = "by_work"


@dataclass(frozen=True, slots=True)
class Server:
    """`nodes` are the daemons of ours, none of llama.cpp's."""

    name: str
    url: str
    model: str
    nodes: tuple[Node, ...] = field(default=())

    def model_state(self) -> dict[str, Any]:
        state = self.nodes[0].model(self.model)
        assert state is not None, f"{self.model} has left"
        return state

    def pids(self) -> list[int]:
        """Of the daemons and their workers."""
        return [pid for node in self.nodes for pid in (node.process.pid, *node.worker_pids())]


@contextmanager
def our_server(setting: Setting, folder: Path, *, num_nodes: int, threads: int) -> Iterator[Server]:
    """A cluster with the model over all of its nodes, asked through the first."""
    model_id = model_folder(setting.model, setting.models_dir).name
    name = f"{num_nodes} node{'s' * (num_nodes > 1)} x {threads} thread{'s' * (threads > 1)}"
    with Daemons(folder / name.replace(" ", "-"), setting.models_dir.resolve()) as daemons:
        nodes = daemons.start_all({f"node-{number + 1}": MEMORY for number in range(num_nodes)}, threads=threads)
        request = {
            "quant": setting.quant,
            "context": setting.context,
            "slots": setting.slots,
            "strategy": setting.strategy,
        }
        loaded = nodes[0].load(model_id, timeout_s=LOAD_TIMEOUT_S, **request)
        assert len(loaded["shards"]) == num_nodes, loaded["shards"]
        yield Server(name, f"http://{nodes[0].http}", model_id, tuple(nodes))


@contextmanager
def llama_cpp_server(setting: Setting, *, threads: int) -> Iterator[Server]:
    """In a process of its own, with the same context and slots. Raises RuntimeError where it does not start."""
    path = gguf_file(setting.model, setting.gguf_kind, setting.models_dir).resolve()
    sizes = {"--threads": threads, "--slots": setting.slots, "--context": setting.context}
    flags = [text for flag, size in sizes.items() for text in (flag, str(size))]
    command = [str(venv_python("llama.cpp")), "-m", "tests.bench.llama_cpp_server", "--gguf", str(path), *flags]
    process = subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    deadline = threading.Timer(LOAD_TIMEOUT_S, process.kill)
    deadline.start()
    try:
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        deadline.cancel()
        if not address:
            raise RuntimeError(f"llama.cpp did not start: {' '.join(command)}")
        yield Server(f"llama.cpp x {threads} threads", address, path.name)
    finally:
        deadline.cancel()
        process.kill()
        process.communicate()
