"""What a hop costs: a decode step over two nodes on this machine, less what the two compute.

    python -m tests.bench.hop --models-dir DIR [--model smollm2-135m] [--quant int8] [--tokens 60] [--requests 10]

One stream, a thread each; from the traces that the driver keeps.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path

from tests.bench.pipeline import decode_rate
from tests.daemons import Daemons, Node


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models-dir", type=Path, required=True)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--quant", default="int8")
    parser.add_argument("--tokens", type=int, default=60)
    parser.add_argument("--requests", type=int, default=10)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, Daemons(Path(folder), arguments.models_dir) as daemons:
        node, _ = daemons.start_all({"front": "8GiB", "back": "8GiB"})
        node.load(arguments.model, quant=arguments.quant, timeout_s=600)
        for _ in range(arguments.requests + 1):
            decode_rate(node, arguments.model, arguments.tokens, 1)
        report(node, arguments)


def report(node: Node, arguments: argparse.Namespace) -> None:
    document = node.get(f"/api/v1/models/{arguments.model}/traces").json()
    steps = [step for request in document["requests"][: arguments.requests] for step in request["steps"][1:]]
    summary = document["summary"]
    names = " + ".join(stage["node"] for stage in document["stages"])
    computes = " + ".join(f"{stage['compute_ms']:.2f}" for stage in summary["stages"])
    print(f"{arguments.model} {arguments.quant}, {len(steps)} decode steps over {names}: {computes} ms of computing")
    for what, values in (
        ("overhead", [overhead_ms(step) for step in steps]),
        ("wire", [step["wire_ms"] for step in steps]),
    ):
        print(f"{what}: median {statistics.median(values):.2f} ms, p99 {percentile(values, 0.99):.2f} ms")
    print(summary["slowest"])


def overhead_ms(step: dict[str, object]) -> float:
    """All of a step but the computing: waiting, serializing, the wire."""
    stages: list[dict[str, float]] = step["stages"]  # type: ignore[assignment]
    duration_ms: float = step["duration_ms"]  # type: ignore[assignment]
    return duration_ms - sum(stage["compute_ms"] for stage in stages)


def percentile(values: list[float], share: float) -> float:
    return sorted(values)[int(share * (len(values) - 1))]


if __name__ == "__main__":
    main()
