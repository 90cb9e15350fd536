"""Bodies as large as they may be, at a real daemon with a model: it answers its probes and its peers meanwhile."""

from __future__ import annotations

import json
import statistics
import threading
import time

import httpx2
import psutil
import pytest

from tests.daemons import Daemons, Node

pytestmark = pytest.mark.alone

MODEL = "smollm2-135m"
MIB = 2**20
MAX_PROBE_S = 0.5
"""Half of what a heartbeat may take."""
HEALTH_WITHIN_S = 0.1
MIN_PROBES = 20
MAX_GROWTH_BYTES = 250 * MIB
"""One long text at a time is cut into tokens, which takes about 150 bytes for each of its own."""


@pytest.fixture(scope="module")
def node(daemons: Daemons) -> Node:
    first, _ = daemons.start_all({"a": "600MiB", "b": "600MiB"})
    first.load(MODEL, quant="int8", context=1024, slots=1)
    first.chat(MODEL, "Hello!", max_tokens=1)  # its tokenizer and its template are read once, for a second or so
    return first


def chat(*contents: str) -> dict[str, object]:
    return {"messages": [{"role": "user", "content": content} for content in contents]}


HEAVY: dict[str, tuple[str, dict[str, object], int]] = {
    "prose": ("/v1/completions", {"prompt": "The quick brown fox jumps. " * 70_000, "echo": True}, 400),
    "white space, which one token may have much of": ("/v1/completions", {"prompt": " \n" * 600_000}, 400),
    "half a million letters without a gap": ("/v1/completions", {"prompt": "é" * 300_000}, 400),
    "many prompts": ("/v1/completions", {"prompt": ["The quick brown fox jumps. " * 600] * 100}, 400),
    "a million token ids": ("/v1/completions", {"prompt": [1] * 650_000}, 413),
    "token ids that are none": ("/v1/completions", {"prompt": [-1] * 250_000}, 400),
    "one message": ("/v1/chat/completions", chat("The quick brown fox jumps. " * 70_000), 400),
    "messages": ("/v1/chat/completions", chat(*[""] * 50_000), 400),
    "parameters": ("/v1/completions", {"prompt": "a", **{f"p{number}": 1 for number in range(130_000)}}, 400),
    "stop strings": ("/v1/completions", {"prompt": "a", "stop": ["a"] * 250_000}, 400),
}


class Probe:
    """Asks for a daemon's health again and again, on a thread of its own."""

    def __init__(self, node: Node) -> None:
        self.times_s: list[float] = []
        self._url = f"http://{node.http}/health"
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Probe:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()

    def _run(self) -> None:
        with httpx2.Client(trust_env=False, timeout=30.0) as client:
            while not self._is_over.wait(0.005) or len(self.times_s) < MIN_PROBES:
                started_s = time.perf_counter()
                assert client.get(self._url).status_code == 200
                self.times_s.append(time.perf_counter() - started_s)


@pytest.mark.parametrize("kind", HEAVY)
def test_a_heavy_body_holds_up_neither_probes_nor_peers(daemons: Daemons, node: Node, kind: str):
    path, fields, expected = HEAVY[kind]
    content = json.dumps({"model": MODEL, **fields}, separators=(",", ":")).encode()
    before = psutil.Process(node.process.pid).memory_info().rss
    with Probe(node) as probe:
        for _ in range(3):
            reply = node.client.post(f"http://{node.http}{path}", content=content)
            assert reply.status_code == expected, reply.text[:500]
    assert max(probe.times_s) < MAX_PROBE_S
    assert statistics.median(probe.times_s) < HEALTH_WITHIN_S
    assert psutil.Process(node.process.pid).memory_info().rss - before < MAX_GROWTH_BYTES
    told = {event["kind"] for event in daemons.nodes["b"].state()["events"]}
    assert not {"node_suspect", "node_lost"} & told
    assert "Traceback" not in node.log_path.read_text(encoding="utf-8")
