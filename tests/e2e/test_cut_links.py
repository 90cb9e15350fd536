"""Daemons where not every pair can talk: the model goes where its streams can run, and comes back with its links."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from exo_lite.store.model_store import ModelStore
from tests.conftest import DEMO_MODEL
from tests.daemons import Node, wait_until
from tests.lan import DROP, PASS, Frame, Lan, lan_of_daemons, needs_lan

pytestmark = [needs_lan, pytest.mark.timeout(240)]

MEET_TIMEOUT_S = 20.0
BAR_S = 20.0
"""From the cut of a link to an answer."""
LOAD: dict[str, Any] = {"quant": "int8", "context": 512, "slots": 2}
SMALL_BYTES = 1250


def cut(lan: Lan, *hosts: int) -> None:
    """From now on these two cannot talk; none: all can."""
    lan.rule = lambda frame: DROP if {frame.source, frame.target} == set(hosts) else PASS


def answers(node: Node) -> bool:
    body = {"model": DEMO_MODEL, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 2}
    return node.post("/v1/chat/completions", body).status_code == 200


def links_broken_for(node: Node) -> list[list[str]]:
    return [sorted(link["nodes"]) for link in node.state()["broken_links"]]


def test_a_cut_pair_of_three_is_gone_around_wherever_a_request_enters(tmp_path: Path, smollm2_store: ModelStore):
    with lan_of_daemons(tmp_path, smollm2_store.models_dir, 3) as (lan, daemons):
        nodes = daemons.start_on_all()
        daemons.wait_joined(timeout_s=MEET_TIMEOUT_S)
        assert len(nodes[0].load(DEMO_MODEL, **LOAD)["shards"]) == 3
        cut(lan, 0, 2)
        cut_at_s = time.monotonic()
        for node in nodes:
            wait_until(lambda node=node: answers(node), f"{node.name} answers", timeout_s=BAR_S)  # type: ignore[misc]
        assert time.monotonic() - cut_at_s < 2 * BAR_S
        for node in nodes:
            assert links_broken_for(node) == [["a", "c"]]
            assert node.state()["leader"] == nodes[0].state()["leader"]
        [note] = nodes[2].state()["notes"]
        assert note["text"] == "a and c cannot reach each other"
        model = nodes[2].model(DEMO_MODEL)
        assert model is not None
        assert len({shard["node"] for shard in model["shards"]} & {"a", "c"}) == 1
        cut(lan)
        for node in nodes:
            wait_until(lambda node=node: not links_broken_for(node), "the link works again")  # type: ignore[misc]
            assert answers(node)


@pytest.mark.long
def test_a_model_that_needs_all_three_says_which_link_is_broken_and_comes_back_by_itself(
    tmp_path: Path, smollm2_store: ModelStore
):
    with lan_of_daemons(tmp_path, smollm2_store.models_dir, 3) as (lan, daemons):
        sizes = dict.fromkeys("abc", "115MiB")  # no two of them hold it
        nodes = [daemons.start_on(index, name, memory=size) for index, (name, size) in enumerate(sizes.items())]
        daemons.wait_joined(timeout_s=MEET_TIMEOUT_S)
        nodes[0].load(DEMO_MODEL, quant="int8", context=1024, slots=4)
        cut(lan, 0, 2)

        def failed() -> bool:
            model = nodes[1].model(DEMO_MODEL)
            return model is not None and "a and c cannot reach each other" in (model["reason"] or "")

        wait_until(failed, "the reason names the link", timeout_s=60.0)
        model = nodes[1].model(DEMO_MODEL)
        assert model is not None
        assert "firewall" in model["fix"]
        cut(lan)
        wait_until(lambda: answers(nodes[2]), "it is back", timeout_s=60.0)


@pytest.mark.long
def test_halves_that_meet_again_leave_the_one_that_serves_alone(tmp_path: Path, smollm2_store: ModelStore):
    with lan_of_daemons(tmp_path, smollm2_store.models_dir, 4) as (lan, daemons):
        sizes = {"a": "100MiB", "b": "100MiB", "c": "400MiB", "d": "400MiB"}
        nodes = [daemons.start_on(index, name, memory=size) for index, (name, size) in enumerate(sizes.items())]
        daemons.wait_joined(timeout_s=MEET_TIMEOUT_S)
        nodes[0].load(DEMO_MODEL, **LOAD)
        lan.rule = _between_halves
        wait_until(lambda: answers(nodes[2]), "one half serves", timeout_s=60.0)
        wait_until(lambda: _state_at(nodes[0]) == "failed", "the other cannot", timeout_s=60.0)
        served = nodes[2].model(DEMO_MODEL)
        cut(lan)
        deadline_s = time.monotonic() + 10.0
        while time.monotonic() < deadline_s:
            assert answers(nodes[2])
        daemons.wait_joined(timeout_s=MEET_TIMEOUT_S)
        wait_until(lambda: answers(nodes[0]), "the other half serves too")
        now = nodes[2].model(DEMO_MODEL)
        assert served is not None
        assert now is not None
        assert (now["epoch"], now["reason"]) == (served["epoch"], served["reason"])


def _between_halves(frame: Frame) -> float | None:
    return DROP if (frame.source < 2) != (frame.target < 2) else PASS


def _state_at(node: Node) -> str | None:
    model = node.model(DEMO_MODEL)
    return str(model["state"]) if model else None


def test_a_way_that_loses_large_packets_is_told_by_that(tmp_path: Path, smollm2_store: ModelStore):
    with lan_of_daemons(tmp_path, smollm2_store.models_dir, 2) as (lan, daemons):
        lan.rule = lambda frame: DROP if frame.num_bytes > SMALL_BYTES else PASS
        nodes = daemons.start_on_all()

        def told(node: Node) -> bool:
            events = [event for event in node.state()["events"] if "loses packets as large as" in event["text"]]
            return any("MTU" in event["fix"] for event in events)

        wait_until(lambda: any(map(told, nodes)), "the cause is told", timeout_s=MEET_TIMEOUT_S)
        lan.rule = lambda frame: PASS
        daemons.wait_joined(timeout_s=MEET_TIMEOUT_S)
