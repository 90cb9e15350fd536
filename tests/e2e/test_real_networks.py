"""Daemons as a user starts them, on networks that drop, delay and change: they meet as soon as they can."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from exo_lite.domain.addresses import split_address
from exo_lite.store.model_store import ModelStore
from tests.conftest import DEMO_MODEL
from tests.daemons import Daemons, Node, wait_until
from tests.lan import DROP, PASS, Frame, Lan, LanDaemons, lan_of_daemons, needs_lan

pytestmark = [needs_lan, pytest.mark.timeout(180)]

MEET_TIMEOUT_S = 20.0
"""Of a first meeting, on a busy machine."""
BAR_S = 15.0
"""After the cause is gone."""
WORKER_PORTS = range(52416, 52480)


@contextmanager
def network(tmp_path: Path, store: ModelStore, num_hosts: int, **options: bool) -> Iterator[tuple[Lan, LanDaemons]]:
    with lan_of_daemons(tmp_path, store.models_dir, num_hosts, **options) as (lan, daemons):
        yield lan, daemons


def unless(is_cut: Callable[[], bool]) -> Callable[[Frame], float | None]:
    return lambda frame: DROP if is_cut() else PASS


def addresses_seen_by(node: Node) -> dict[str, str]:
    return {one["name"]: one["address"] for one in node.state()["nodes"]}


def unreached_by(node: Node) -> list[dict[str, Any]] | None:
    return node.state()["unreached"] or None


def told_by(node: Node, kind: str) -> list[dict[str, Any]] | None:
    return [event for event in node.state()["events"] if event["kind"] == kind] or None


def test_a_firewall_that_opens_late_is_told_of_and_kept_trying(tmp_path: Path, smollm2_store: ModelStore):
    with network(tmp_path, smollm2_store, 2) as (lan, daemons):
        lan.rule = lambda frame: DROP if frame.protocol == "tcp" else PASS
        a, b = daemons.start_on_all()
        for node, other in ((a, "b"), (b, "a")):
            [entry] = wait_until(partial(unreached_by, node), f"{node.name} shows who is not reached")
            assert (entry["name"], entry["seen_by"]) == (other, node.name)
            assert "TCP port 52414 of 10.77.0." in entry["reason"]
            assert "52414/tcp and 52416-52479/tcp" in entry["fix"]
            wait_until(partial(told_by, node, "node_unreached"), f"{node.name} tells of it")
        lan.rule = lambda frame: PASS
        daemons.wait_joined(timeout_s=BAR_S)
        assert (unreached_by(a), unreached_by(b)) == (None, None)
        assert [len(told_by(node, "node_unreached") or ()) for node in (a, b)] == [1, 1]


def test_a_switch_that_forwards_late_hides_nobody(tmp_path: Path, smollm2_store: ModelStore):
    """Longer than zeroconf's browser asks by itself."""
    with network(tmp_path, smollm2_store, 2) as (lan, daemons):
        lan.rule = lambda frame: DROP
        daemons.start_on_all()
        forwards_at_s = time.monotonic() + 20.0
        lan.rule = lambda frame: PASS if time.monotonic() > forwards_at_s else DROP
        wait_until(lambda: time.monotonic() > forwards_at_s, "the switch forwards")
        daemons.wait_joined(timeout_s=BAR_S)


def test_no_network_at_the_start_is_no_reason_to_stay_alone(tmp_path: Path, smollm2_store: ModelStore):
    with network(tmp_path, smollm2_store, 2, is_up=False) as (lan, daemons):
        a, b = daemons.start_on_all()
        assert addresses_seen_by(a) == {"a": "127.0.0.1:52414"}
        for host in lan.hosts:
            host.ip("link", "set", "eth0", "up")
        daemons.wait_joined(timeout_s=BAR_S)
        assert addresses_seen_by(b) == {"a": "10.77.0.1:52414", "b": "10.77.0.2:52414"}


def test_an_overlay_that_leads_nowhere_does_not_hide_the_card(tmp_path: Path, smollm2_store: ModelStore):
    with network(tmp_path, smollm2_store, 2, overlay_first=True) as (_, daemons):
        a, _b = daemons.start_on_all()
        daemons.wait_joined(timeout_s=MEET_TIMEOUT_S)
        assert addresses_seen_by(a) == {"a": "10.77.0.1:52414", "b": "10.77.0.2:52414"}
        [other] = [one for one in a.state()["nodes"] if not one["self"]]
        assert other["addresses"] == ["10.77.0.2:52414", "100.64.0.2:52414"]


def test_a_model_over_a_node_whose_address_changes_comes_back(tmp_path: Path, smollm2_store: ModelStore):
    with network(tmp_path, smollm2_store, 2) as (lan, daemons):
        a, b = daemons.start_on_all(memory="150MiB")  # it takes both
        daemons.wait_joined(timeout_s=MEET_TIMEOUT_S)
        model = a.load(DEMO_MODEL, quant="int8", context=256, slots=2)
        lan.hosts[1].set_address("10.77.0.52/24")

        def is_back() -> bool:
            model = a.model(DEMO_MODEL)
            return model is not None and model["state"] == "ready" and model["epoch"] > first_epoch

        first_epoch = model["epoch"]
        wait_until(is_back, "the model is ready again", timeout_s=30.0)
        assert addresses_seen_by(a)["b"] == "10.77.0.52:52414"
        for node in (a, b):
            assert node.chat(DEMO_MODEL, "Say hello.", max_tokens=4)["usage"]["completion_tokens"] > 0


def test_a_load_that_a_firewall_stops_names_the_port_and_both_nodes(tmp_path: Path, smollm2_store: ModelStore):
    with network(tmp_path, smollm2_store, 2) as (lan, daemons):
        lan.rule = lambda frame: DROP if frame.opens_connection and frame.target_port in WORKER_PORTS else PASS
        a, _b = daemons.start_on_all()
        daemons.wait_joined(timeout_s=MEET_TIMEOUT_S)
        reply = a.post(f"/api/v1/models/{DEMO_MODEL}/load", {"quant": "int8", "context": 256, "slots": 2})
        assert reply.status_code == 202, reply.text

        def reason() -> str | None:
            return next((str(event["text"]) for event in a.state()["events"] if "TCP port" in event["text"]), None)

        text = wait_until(reason, "the cause is told", timeout_s=60.0)
        assert re.search(r"[ab] does not reach the worker on [ab]: TCP port 524\d\d of 10\.77\.0\.[12]", text)


def test_two_stages_need_the_documented_ports_only(tmp_path: Path, smollm2_store: ModelStore):
    blocked: set[int] = set()

    def firewall(frame: Frame) -> float | None:
        if frame.opens_connection and frame.target_port not in (52414, *WORKER_PORTS):
            blocked.add(frame.target_port)
            return DROP
        return DROP if frame.protocol == "udp" and frame.target_port != 5353 else PASS

    with network(tmp_path, smollm2_store, 2) as (lan, daemons):
        lan.rule = firewall
        a, b = daemons.start_on_all()
        daemons.wait_joined(timeout_s=MEET_TIMEOUT_S)
        model = a.load(DEMO_MODEL, quant="int8", context=256, slots=2)
        assert len(model["shards"]) == 2
        for node in (a, b):
            assert node.chat(DEMO_MODEL, "Say hello.", max_tokens=4)["usage"]["completion_tokens"] > 0
        assert blocked == set()


@pytest.mark.parametrize("outage_s", [8.0, pytest.param(660.0, marks=[pytest.mark.long, pytest.mark.timeout(780)])])
def test_nodes_that_took_each_other_for_dead_meet_again(tmp_path: Path, smollm2_store: ModelStore, outage_s: float):
    """After the longer one neither lists the other any more."""
    with network(tmp_path, smollm2_store, 2) as (lan, daemons):
        a, b = daemons.start_on_all()
        daemons.wait_joined(timeout_s=MEET_TIMEOUT_S)
        is_back_at_s = time.monotonic() + outage_s
        lan.rule = unless(lambda: time.monotonic() < is_back_at_s)
        wait_until(lambda: a.seen().get("b") == b.seen().get("a") == "dead", "both are taken for dead")
        wait_until(lambda: time.monotonic() > is_back_at_s, "the network is back", timeout_s=outage_s)
        daemons.wait_joined(timeout_s=BAR_S)


def test_nodes_with_nothing_but_ipv6_meet(tmp_path: Path, smollm2_store: ModelStore):
    """Over addresses of the link, whose scope is each machine's own."""
    with network(tmp_path, smollm2_store, 2) as (lan, daemons):
        for host in lan.hosts:
            host.ip("-4", "addr", "flush", "dev", "eth0")
        a, _b = daemons.start_on_all()
        daemons.wait_joined(timeout_s=MEET_TIMEOUT_S)
        assert re.fullmatch(r"\[fe80::[0-9a-f:]+%\w+\]:52414", addresses_seen_by(a)["b"])


def test_a_peer_may_be_named_by_an_ipv6_address(tmp_path: Path, smollm2_store: ModelStore):
    with network(tmp_path, smollm2_store, 2) as (lan, daemons):
        for index, host in enumerate(lan.hosts):
            host.ip("addr", "add", f"fd77::{index + 1}/64", "dev", "eth0", "nodad")
        daemons.start_on(0, "a", flags=("--no-mdns", "--host", "fd77::1"))
        b = daemons.start_on(1, "b", flags=("--no-mdns", "--host", "[fd77::2]", "--peer", "[fd77::1]:52414"))
        daemons.wait_joined(timeout_s=MEET_TIMEOUT_S)
        assert addresses_seen_by(b) == {"a": "[fd77::1]:52414", "b": "[fd77::2]:52414"}


def test_hosts_that_stand_for_all_addresses_announce_real_ones(tmp_path: Path, smollm2_store: ModelStore):
    with network(tmp_path, smollm2_store, 2) as (_, daemons):
        a = daemons.start_on(0, "a", flags=("--host", "0.0.0.0"))
        daemons.start_on(1, "b", flags=("--host", "::"))
        daemons.wait_joined(timeout_s=MEET_TIMEOUT_S)
        assert addresses_seen_by(a) == {"a": "10.77.0.1:52414", "b": "10.77.0.2:52414"}


def test_a_node_behind_a_forwarded_port_is_reached_at_what_it_advertises(tmp_path: Path, smollm2_store: ModelStore):
    """The address that it binds is not known outside; the outer one leads to it."""
    with network(tmp_path, smollm2_store, 2) as (lan, daemons):
        lan.hosts[1].ip("addr", "add", "10.77.0.99/24", "dev", "eth0")
        a = daemons.start_on(0, "a", flags=("--no-mdns",))
        flags = ("--no-mdns", "--peer", "10.77.0.1:52414", "--advertise", "10.77.0.99")
        daemons.start_on(1, "b", flags=flags)
        daemons.wait_joined(timeout_s=MEET_TIMEOUT_S)
        [other] = [one for one in a.state()["nodes"] if one["name"] == "b"]
        assert other["addresses"] == ["10.77.0.99:52414"]


def test_the_names_of_loopback_all_work(tmp_path: Path, smollm2_store: ModelStore):
    with Daemons(tmp_path, smollm2_store.models_dir) as daemons:
        a = daemons.start("a", flags=("--host", "localhost"))
        daemons.start("b", flags=("--host", "[::1]"))
        daemons.start("c", flags=("--host", "::1"))
        daemons.wait_joined(timeout_s=MEET_TIMEOUT_S)
        hosts = {name: split_address(address)[0] for name, address in addresses_seen_by(a).items()}
        assert hosts == {"a": "127.0.0.1", "b": "::1", "c": "::1"}
