"""Real daemons with few descriptors, and many clients: they live, and whoever asks for their health gets an answer."""

from __future__ import annotations

import json
import socket
import statistics
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from http.client import HTTPConnection

import psutil
import pytest

from exo_lite.api.limits import http_limits
from tests.daemons import Daemons, Node, wait_until

NUM_CLIENTS = 400
NUM_DESCRIPTORS = 256
NUM_PROBES = 20
HEALTH_WITHIN_S = 0.1
TIMEOUT_S = 10.0
EVENTS = b"GET /api/v1/events HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"


@pytest.fixture
def clients() -> Iterator[ExitStack]:
    """Connections that are closed at the end."""
    with ExitStack() as stack:
        yield stack


def connect(node: Node, clients: ExitStack, request: bytes = b"") -> socket.socket:
    host, _, port = node.http.partition(":")
    connection = clients.enter_context(closing(socket.create_connection((host, int(port)), timeout=TIMEOUT_S)))
    connection.sendall(request)
    return connection


def status_of(connection: socket.socket) -> int:
    """Of the answer, which has come or comes; 0 where the connection was closed."""
    try:
        line = connection.recv(12)
    except ConnectionResetError:
        return 0
    return int(line.split()[1]) if line else 0


def health_s(node: Node) -> float:
    """The median time of an answer, each on a connection of its own, as a probe makes it."""
    times_s = []
    for _ in range(NUM_PROBES):
        started_s = time.perf_counter()
        with closing(HTTPConnection(node.http, timeout=TIMEOUT_S)) as connection:
            connection.request("GET", "/health")
            assert connection.getresponse().status == 200
        times_s.append(time.perf_counter() - started_s)
    return statistics.median(times_s)


def assert_calm(node: Node, num_lines: int = 50) -> None:
    """Its log is short and has no traceback."""
    log = node.log_path.read_text(encoding="utf-8")
    assert "Traceback" not in log
    assert len(log.splitlines()) < num_lines, log[-2000:]


@pytest.mark.parametrize("kind", ["soft limit, which is raised", "hard limit"])
def test_hundreds_of_event_streams_at_256_descriptors_end_nothing(own_daemons: Daemons, clients: ExitStack, kind: str):
    flag = "-n" if kind == "hard limit" else "-Sn"
    node = own_daemons.start("a", shell=f"ulimit {flag} {NUM_DESCRIPTORS}")
    soft, _ = psutil.Process(node.process.pid).rlimit(psutil.RLIMIT_NOFILE)
    assert soft == NUM_DESCRIPTORS if kind == "hard limit" else soft > 4 * NUM_DESCRIPTORS
    streams = [connect(node, clients, EVENTS) for _ in range(NUM_CLIENTS)]
    statuses = [status_of(stream) for stream in streams]
    num_open = http_limits(soft).event_streams
    assert statuses.count(200) == num_open
    assert statuses.count(503) == NUM_CLIENTS - num_open
    assert health_s(node) < HEALTH_WITHIN_S
    assert node.state()["nodes"][0]["state"] == "alive"
    assert_calm(node)

    refused = node.get("/api/v1/events")
    assert (refused.status_code, refused.headers["connection"]) == (503, "close")
    assert int(refused.headers["retry-after"]) >= 1
    assert refused.json()["error"]["code"] == "daemon_busy"
    streams[statuses.index(200)].close()
    wait_until(lambda: status_of(connect(node, clients, EVENTS)) == 200, "a place that was left is given again")
    assert node.stop() == 0
    assert_calm(node)


def test_connections_that_ask_nothing_give_way_to_those_that_do(own_daemons: Daemons, clients: ExitStack):
    node = own_daemons.start("a", shell=f"ulimit -n {NUM_DESCRIPTORS}")
    idle = [connect(node, clients) for _ in range(NUM_CLIENTS)]
    assert health_s(node) < HEALTH_WITHIN_S
    assert psutil.Process(node.process.pid).num_fds() < NUM_DESCRIPTORS
    assert status_of(idle[0]) == 0  # the oldest has been closed
    assert_calm(node)


def test_connections_to_the_peers_port_are_bounded_too(own_daemons: Daemons, clients: ExitStack):
    first = own_daemons.start("a", shell=f"ulimit -n {NUM_DESCRIPTORS}")
    second = own_daemons.start("b", flags=("--peer", first.state()["nodes"][0]["address"]))
    own_daemons.wait_joined()
    host, _, port = first.state()["nodes"][0]["address"].rpartition(":")
    for _ in range(NUM_CLIENTS):
        clients.enter_context(closing(socket.create_connection((host, int(port)), timeout=TIMEOUT_S)))
    assert health_s(first) < HEALTH_WITHIN_S
    assert psutil.Process(first.process.pid).num_fds() < NUM_DESCRIPTORS // 2
    assert first.seen() == second.seen() == {"a": "alive", "b": "alive"}
    assert_calm(first)


def test_a_worker_starts_while_clients_crowd(own_daemons: Daemons, clients: ExitStack):
    node = own_daemons.start("a", shell=f"ulimit -n {NUM_DESCRIPTORS}")
    for _ in range(NUM_CLIENTS):
        connect(node, clients, EVENTS)
    node.load("smollm2-135m", quant="int8", context=64, slots=1)
    answer = node.chat("smollm2-135m", "Hello!", max_tokens=4)
    assert json.dumps(answer["choices"])
    assert_calm(node)
