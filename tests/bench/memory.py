"""Whether a worker keeps to the memory that was planned for it: peak resident memory of each, over several daemons.

    python -m tests.bench.memory [--model 8b] [--quant int4] [--nodes 3] [--memory 3GiB]

Starts daemons of one thread on loopback, plans and loads the model over them, has it answer a prompt, and reads the
greatest resident size that each worker process ever had (VmHWM of /proc, Linux only). Allowed is what was planned,
10 % more, and 300 MiB for Python and its libraries. Ends with code 1 where a worker took more. The 8b model is made on
the first use (16 GB of disk).
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.bench.models import MODEL_NAMES, MODELS_DIR, model_folder
from tests.daemons import MIB, Daemons, Node

LOAD_TIMEOUT_S = 1800.0
INTERPRETER_BYTES = 300 * MIB
NUM_PROMPT_TOKENS = 300
"""More than a chunk: the largest step that there is."""


@dataclass(frozen=True, slots=True)
class WorkerMemory:
    """One worker's peak, beside what the plan says of its shard."""

    node: str
    layers: str
    planned_bytes: int
    peak_bytes: int

    @property
    def allowed_bytes(self) -> int:
        return self.planned_bytes * 11 // 10 + INTERPRETER_BYTES

    @property
    def is_within(self) -> bool:
        return self.peak_bytes <= self.allowed_bytes

    def line(self) -> str:
        sizes = " | ".join(f"{one / MIB:.0f}" for one in (self.planned_bytes, self.peak_bytes, self.allowed_bytes))
        return f"| {self.node} | {self.layers} | {sizes} | {'yes' if self.is_within else 'NO'} |"


def peak_resident_bytes(status: str) -> int:
    """Of the text of /proc/PID/status."""
    found = re.search(r"^VmHWM:\s+(\d+) kB$", status, re.MULTILINE)
    assert found, status
    return 1024 * int(found[1])


def measure(nodes: Sequence[Node], model_id: str, request: dict[str, object]) -> list[WorkerMemory]:
    """Plan, load, answer, read. Needs all of the plan's nodes among `nodes`."""
    first = nodes[0]
    plan = first.post("/api/v1/plan", {"model": model_id, **request}).json()
    if not plan.get("fits"):
        raise SystemExit(str(plan.get("reason") or plan))
    print(f"loading {model_id} over {len(plan['shards'])} of {len(nodes)} nodes", flush=True)
    first.load(model_id, timeout_s=LOAD_TIMEOUT_S, **request)
    prompt = [token_id % 500 for token_id in range(NUM_PROMPT_TOKENS)]
    body = {"model": model_id, "prompt": prompt, "max_tokens": 8, "temperature": 0, "ignore_eos": True}
    pieces = list(first.stream("/v1/completions", body))
    print(f"answered in {len(pieces)} pieces", flush=True)
    by_name = {node.name: node for node in nodes}
    return [_worker_memory(by_name[shard["node"]], shard) for shard in plan["shards"]]


def _worker_memory(node: Node, shard: dict[str, object]) -> WorkerMemory:
    (pid,) = node.worker_pids()
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    layers = f"{shard['start_layer']}..{shard['end_layer']}"
    return WorkerMemory(node.name, layers, int(str(shard["memory_bytes"])), peak_resident_bytes(status))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=MODEL_NAMES, default="8b")
    parser.add_argument("--models-dir", type=Path, default=MODELS_DIR, help="default: .cache/bench-models")
    parser.add_argument("--quant", choices=["none", "int8", "int4", "w8a8"], default="int4")
    parser.add_argument("--dtype", choices=["auto", "float32", "bfloat16", "float16"], default="auto")
    parser.add_argument("--nodes", type=int, default=3)
    parser.add_argument("--memory", default="3GiB", help="that each node offers")
    parser.add_argument("--context", type=int, default=1024)
    parser.add_argument("--slots", type=int, default=2)
    arguments = parser.parse_args()
    model_id = model_folder(arguments.model, arguments.models_dir).name
    request = {key: getattr(arguments, key) for key in ("quant", "dtype", "context", "slots")}
    with (
        tempfile.TemporaryDirectory() as folder,
        Daemons(Path(folder), arguments.models_dir.resolve()) as daemons,
    ):
        memory = {f"node-{number + 1}": arguments.memory for number in range(arguments.nodes)}
        found = measure(daemons.start_all(memory), model_id, request)
    print("\n| node | layers | planned MiB | peak MiB | allowed MiB | within |\n|---|---|---|---|---|---|")
    print(*(one.line() for one in found), sep="\n")
    sys.exit(0 if all(one.is_within for one in found) else 1)


if __name__ == "__main__":
    main()
