"""What a split costs one stream and gives to several: one node and two nodes, a thread each, measured in turn.

    python -m tests.bench.pipeline --models-dir DIR [--model smollm2-135m] [--tokens 128] [--rounds 5] [--dtype float32]

Prints decode tokens/s of one stream on one node, of one and of four streams over two nodes, and the ratios.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.daemons import Daemons, Node

NUM_STREAMS = 4


def stream_seconds(node: Node, model: str, num_tokens: int) -> tuple[float, float]:
    """Monotonic times of the first and the last of `num_tokens` new tokens."""
    body = {"model": model, "prompt": "Once upon a time", "max_tokens": num_tokens, "temperature": 0}
    times = [
        time.monotonic()
        for chunk in node.stream("/v1/completions", {**body, "ignore_eos": True, "return_token_ids": True})
        for choice in chunk["choices"]
        if choice.get("token_ids")
    ]
    return times[0], times[-1]


def decode_rate(node: Node, model: str, num_tokens: int, num_streams: int) -> float:
    """Tokens/s of all streams together, from the first token of any to the last of all."""
    with ThreadPoolExecutor(num_streams) as pool:
        spans = list(pool.map(lambda _: stream_seconds(node, model, num_tokens), range(num_streams)))
    return num_streams * (num_tokens - 1) / (max(end for _, end in spans) - min(start for start, _ in spans))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models-dir", type=Path, required=True)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--quant", default="none")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        measure(Path(folder), arguments)


def measure(folder: Path, arguments: argparse.Namespace) -> None:
    model, num_tokens = arguments.model, arguments.tokens
    rates: dict[str, list[float]] = {"one node": [], "two nodes": [], f"two nodes, {NUM_STREAMS} streams": []}
    with Daemons(folder / "1", arguments.models_dir) as single, Daemons(folder / "2", arguments.models_dir) as pair:
        one = single.start("one", memory="8GiB")
        (two, _) = pair.start_all({"two-a": "8GiB", "two-b": "8GiB"})
        for node in (one, two):
            node.load(model, timeout_s=600.0, dtype=arguments.dtype, quant=arguments.quant)
            decode_rate(node, model, num_tokens, 1)  # warm up
        for number in range(arguments.rounds):
            for label, node, num_streams in zip(rates, (one, two, two), (1, 1, NUM_STREAMS), strict=True):
                rates[label].append(decode_rate(node, model, num_tokens, num_streams))
                print(f"round {number + 1}: {label}: {rates[label][-1]:.1f} tokens/s", flush=True)
    medians = {label: statistics.median(values) for label, values in rates.items()}
    alone, split, several = medians.values()
    for label, median in medians.items():
        print(f"{label}: {median:.1f} tokens/s (median of {arguments.rounds})")
    print(f"one stream, two nodes : one node = {split / alone:.2f}")
    print(f"{NUM_STREAMS} streams : one stream, two nodes = {several / split:.2f}")


if __name__ == "__main__":
    main()
