"""GET /api/v1/state: exactly the keys of the contract, with their types, and what is added to them."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from exo_lite.domain.cluster_state import ClusterState
from exo_lite.domain.ids import NodeId
from exo_lite.domain.keep_alive import FOR_EVER
from exo_lite.node.event_log import NodeEvent
from exo_lite.node.state_document import state_document
from tests.unit.node.cluster_states import (
    EPOCH,
    FIRST,
    SECOND,
    both_ready,
    cluster,
    driven,
    instance,
    member,
    node,
    two_nodes,
)
from tests.unit.node.cluster_states import MODEL as MODEL_ID

NUMBER = (int, float)
OPTIONAL_NUMBER = (int, float, type(None))
OPTIONAL_TEXT = (str, type(None))

TOP = {"node": dict, "cluster": str, "epoch": int, "leader": str, "nodes": list, "models": list, "events": list}
TOP |= {"broken_links": list, "notes": list, "unreached": list}
NODE = {
    "id": str,
    "name": str,
    "address": str,
    "addresses": list,
    "http_address": str,
    "self": bool,
    "state": str,
    "version": str,
    "device": dict,
    "engine": dict,
    "rtt_ms": OPTIONAL_NUMBER,
    "heartbeat_age_s": NUMBER,
    "memory": dict,
}
DEVICE = {"kind": str, "name": str, "threads": int}
MEMORY = dict.fromkeys(("limit_bytes", "weights_bytes", "kv_cache_bytes", "working_bytes", "free_bytes"), int)
MODEL = {
    "id": str,
    "n_layers": int,
    "vocab_size": int,
    "state": str,
    "reason": OPTIONAL_TEXT,
    "fix": OPTIONAL_TEXT,
    "epoch": int,
    "dtype": str,
    "quant": str,
    "exact": bool,
    "context_length": int,
    "slots": int,
    "options": dict,
    "prefix_cache": dict,
    "speculation": dict,
    "tokens_per_second": NUMBER,
    "proof_age_s": OPTIONAL_NUMBER,
    "keep_alive_s": OPTIONAL_NUMBER,
    "idle_s": OPTIONAL_NUMBER,
    "kv_blocks": dict,
    "requests": dict,
    "shards": list,
}
SHARD = {
    "node_id": str,
    "node": str,
    "start_layer": int,
    "end_layer": int,
    "state": str,
    "progress": NUMBER,
    "numerics": OPTIONAL_TEXT,
    "weight_bytes": int,
    "kv_cache_bytes": int,
    "compute_ms": OPTIONAL_NUMBER,
    "hop_ms": OPTIONAL_NUMBER,
}
EVENT = {"time": NUMBER, "kind": str, "text": str, "fix": OPTIONAL_TEXT}
EVENTS = [NodeEvent(1.5, "started", "here"), NodeEvent(2.5, "node_lost", "gone", "start it")]


def document(state: ClusterState) -> dict[str, Any]:
    """As a client reads it."""
    text = json.dumps(state_document(state, EVENTS, now_s=10.75), allow_nan=False)
    parsed: dict[str, Any] = json.loads(text)
    return parsed


def check(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert found.keys() == expected.keys()
    for key, types in expected.items():
        assert isinstance(found[key], types), key
        assert types in (bool, NUMBER) or not isinstance(found[key], bool), key


def test_the_document_has_the_contracts_keys_and_types():
    state = both_ready()
    found = document(state)
    check(found, TOP)
    check(found["node"], {"id": str, "name": str})
    for one in found["nodes"]:
        check(one, NODE)
        check(one["device"], DEVICE)
        check(one["memory"], MEMORY)
    for model in found["models"]:
        check(model, MODEL)
        check(model["requests"], {"running": int, "waiting": int})
        check(model["kv_blocks"], {"total": int, "free": int})
        for shard in model["shards"]:
            check(shard, SHARD)
    for event in found["events"]:
        check(event, EVENT)
    assert (len(found["nodes"]), len(found["models"]), len(found["events"])) == (2, 1, 2)


def test_it_says_who_speaks_who_leads_and_how_the_others_are():
    found = document(both_ready())
    assert (found["node"], found["cluster"], found["epoch"], found["leader"]) == (
        {"id": "a", "name": "node-a"},
        "home",
        EPOCH,
        "a",
    )
    this, other = found["nodes"]
    assert (this["id"], this["self"], this["state"], this["rtt_ms"], this["heartbeat_age_s"]) == (
        "a",
        True,
        "alive",
        None,
        0.0,
    )
    assert (other["id"], other["self"], other["state"], other["rtt_ms"], other["heartbeat_age_s"]) == (
        "b",
        False,
        "alive",
        0.5,
        0.75,
    )
    assert other["address"] == "10.0.0.98:52414"


def test_shards_stand_in_layer_order_with_both_ends_and_their_state():
    [model] = document(both_ready())["models"]
    ranges = [(one["node"], one["start_layer"], one["end_layer"], one["state"]) for one in model["shards"]]
    assert ranges == [("node-a", 0, 1, "ready"), ("node-b", 2, 3, "ready")]


def test_measurements_of_the_driver_stand_with_the_model():
    state = both_ready()
    [first] = state.self_status.shards
    busy = driven(first, hop_ms=0.8, tokens_per_second=12.5, num_running=2, num_waiting=1, proof_age_s=0.1)
    busy = replace(busy, report=replace(busy.report, compute_ms=3.0))
    [model] = document(replace(state, self_status=replace(state.self_status, shards=(busy,))))["models"]
    assert (model["tokens_per_second"], model["requests"], model["proof_age_s"]) == (
        12.5,
        {"running": 2, "waiting": 1},
        0.1,
    )
    assert [(one["compute_ms"], one["hop_ms"]) for one in model["shards"]] == [(3.0, 0.8), (None, 0.8)]


def test_how_long_a_model_is_kept_and_what_its_cache_has_left():
    state = both_ready()
    first = driven(state.self_status.shards[0], idle_s=2.5, num_kv_blocks=64, num_free_kv_blocks=60)
    for keep_alive_s, shown in ((300.0, 300.0), (FOR_EVER, None)):
        placed = replace(instance(FIRST, SECOND), keep_alive_s=keep_alive_s)
        [model] = document(cluster(replace(state.self_status, shards=(first,)), [], placed))["models"]
        assert (model["keep_alive_s"], model["idle_s"]) == (shown, 2.5)
        assert model["kv_blocks"] == {"total": 64, "free": 60}


def test_requests_that_wait_for_a_model_are_counted_where_they_entered():
    loading = cluster(
        replace(node("a"), num_requests={MODEL_ID: 2}),
        [member(replace(node("b"), num_requests={MODEL_ID: 1}))],
        instance(FIRST, SECOND, state="loading"),
    )
    assert document(loading)["models"][0]["requests"] == {"running": 0, "waiting": 3}


def test_a_part_that_nobody_heard_of_is_loading_and_one_on_a_dead_node_is_lost():
    [model] = document(two_nodes(second_state="dead"))["models"]
    assert (model["state"], model["reason"]) == ("degraded", "node-b is lost")
    assert [(one["state"], one["progress"]) for one in model["shards"]] == [("loading", 0.0), ("lost", 0.0)]
    assert (model["tokens_per_second"], model["requests"]) == (0.0, {"running": 0, "waiting": 0})


def test_a_part_on_a_node_that_should_have_been_met_by_now_is_lost():
    unmet = cluster(node("a"), [], instance(FIRST, SECOND))
    assert [one["state"] for one in document(unmet)["models"][0]["shards"]] == ["loading", "loading"]
    missing = replace(unmet, missing=frozenset({NodeId("b")}))
    assert [one["state"] for one in document(missing)["models"][0]["shards"]] == ["loading", "lost"]


def test_a_cluster_without_a_placement_has_epoch_0_and_no_models():
    found = document(ClusterState(node("a")))
    check(found, TOP)
    assert (found["epoch"], found["models"], [one["id"] for one in found["nodes"]]) == (0, [], ["a"])


def test_a_broken_link_stands_in_the_document_with_its_way_out():
    state = cluster(
        replace(node("a"), unreached=(NodeId("c"),)), [member(node("b")), member(node("c"))], instance(FIRST, SECOND)
    )
    found = document(state)
    assert found["broken_links"] == [{"node_ids": ["a", "c"], "nodes": ["node-a", "node-c"]}]
    [note] = found["notes"]
    assert (note["kind"], note["text"]) == ("link_broken", "node-a and node-c cannot reach each other")
    assert "firewall" in note["fix"]


def test_a_node_of_another_version_is_told_of():
    other = node("b")
    newer = replace(other, identity=replace(other.identity, version="9.9.9"))
    [note] = document(cluster(node("a"), [member(newer)]))["notes"]
    assert note["text"] == "node-b runs exo-lite 9.9.9, node-a runs 1.2.3"
    assert note["fix"] == "install the same exo-lite version on all nodes"


def test_a_failed_model_says_what_to_do_and_others_do_not():
    failed = replace(instance(FIRST, SECOND, state="failed"), cause="link_broken")
    [model] = document(cluster(node("a"), [member(node("b"))], failed))["models"]
    assert "firewall" in model["fix"]
    [model] = document(both_ready())["models"]
    assert model["fix"] is None
