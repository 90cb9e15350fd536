"""What the leader does next, case by case."""

from __future__ import annotations

from dataclasses import replace

import pytest

from exo_lite.domain.cluster import ClusterState
from exo_lite.domain.ids import Epoch, ModelId, NodeId
from exo_lite.domain.keep_alive import FOR_EVER
from exo_lite.domain.node import ShardState
from exo_lite.domain.pipeline import ConnectOrder, Hop
from exo_lite.domain.placement import InstanceState
from exo_lite.node.decisions import (
    MIN_IDLE_S,
    Action,
    GiveUp,
    Leave,
    PlaceAnew,
    WarmUp,
    connect_orders,
    idle_s,
    lost_reason,
    next_actions,
    offers,
)
from exo_lite.node.decisions import shard_status as status_of
from tests.unit.node.cluster_states import (
    EPOCH,
    FINGERPRINT,
    FIRST,
    LIMIT_BYTES,
    MODEL,
    SECOND,
    both_ready,
    cluster,
    instance,
    member,
    node,
    part,
    shard_status,
    two_nodes,
)

OLDER = Epoch(EPOCH - 1)


def place_anew(reason: str, *, is_loss: bool, cause: str = "node_lost") -> list[Action]:
    return [PlaceAnew(MODEL, EPOCH, reason, is_loss=is_loss, cause=cause)]


def test_nothing_is_placed_so_nothing_is_to_do():
    assert next_actions(cluster(node("a"))) == []
    assert next_actions(replace(cluster(node("a")), placement=None)) == []


def test_a_ready_instance_whose_parts_are_ready_is_left_alone():
    assert next_actions(both_ready()) == []


@pytest.mark.parametrize("state", ["loading", "warming"])
def test_an_instance_with_every_part_loaded_is_warmed_up(state: InstanceState):
    assert next_actions(both_ready(state=state)) == [WarmUp(MODEL, EPOCH)]


@pytest.mark.parametrize("other", [None, shard_status(SECOND, "loading"), shard_status(SECOND, assigned_epoch=OLDER)])
def test_it_is_not_while_a_part_is_loading_or_unheard_of(other):
    assert next_actions(two_nodes(shard_status(FIRST), other, state="loading")) == []


@pytest.mark.parametrize("state", ["loading", "warming", "ready", "degraded"])
def test_a_dead_node_places_anew_in_every_state(state: InstanceState):
    seen = two_nodes(shard_status(FIRST), shard_status(SECOND), second_state="dead", state=state)
    assert next_actions(seen) == place_anew("node-b is lost", is_loss=True)


def test_a_suspect_node_is_not_lost():
    assert next_actions(two_nodes(shard_status(FIRST), shard_status(SECOND), second_state="suspect")) == []


def test_all_lost_nodes_are_named():
    both_dead = cluster(
        node("a"), [member(node("b"), "dead"), member(node("c"), "dead")], instance(SECOND, part("c", 0, 1))
    )
    assert lost_reason(both_dead, instance(SECOND, part("c", 0, 1))) == "node-b and node-c are lost"


def test_a_node_that_was_not_met_yet_is_lost_only_after_a_while():
    placed = instance(FIRST, SECOND)
    unmet = cluster(node("a", shard_status(FIRST)), [], placed)
    assert next_actions(unmet) == []
    missing = replace(unmet, missing=frozenset({NodeId("b")}))
    assert next_actions(missing) == place_anew("node-b is lost", is_loss=True)


def test_a_worker_that_lives_and_cannot_load_gives_up():
    error = "model.safetensors: ends within tensor x"
    failed = two_nodes(shard_status(FIRST), shard_status(SECOND, "lost", error=error), state="loading")
    assert next_actions(failed) == [GiveUp(MODEL, EPOCH, f"node-b: {error}")]


@pytest.mark.parametrize("state", ["loading", "warming", "ready"])
def test_a_worker_that_is_gone_places_anew(state: InstanceState):
    gone = shard_status(SECOND, "lost", worker_port=None, error="killed by signal 9")
    assert next_actions(two_nodes(shard_status(FIRST), gone, state=state)) == place_anew(
        "killed by signal 9", is_loss=False, cause="worker_failed"
    )


def test_a_pipeline_that_broke_in_this_epoch_places_anew():
    broken = two_nodes(shard_status(FIRST, error="node-b did not answer"), shard_status(SECOND))
    assert next_actions(broken) == place_anew("node-b did not answer", is_loss=False)


def test_one_that_broke_in_an_older_epoch_does_not():
    old_word = shard_status(FIRST, epoch=OLDER, error="node-c did not answer")
    assert next_actions(two_nodes(old_word, shard_status(SECOND, "loading"), state="loading")) == []
    assert next_actions(two_nodes(old_word, shard_status(SECOND), state="loading")) == [WarmUp(MODEL, EPOCH)]


def test_a_ready_instance_with_a_part_that_loads_again_is_placed_anew():
    restarted = two_nodes(shard_status(FIRST), shard_status(SECOND, "loading"))
    assert next_actions(restarted) == place_anew("node-b started again", is_loss=True)


def idle(seconds: float | None, *, keep_alive_s: float = 300.0) -> ClusterState:
    """A ready instance whose head says so."""
    state = both_ready()
    head = replace(shard_status(FIRST), idle_s=seconds)
    placed = replace(instance(FIRST, SECOND), keep_alive_s=keep_alive_s)
    assert state.placement is not None
    return replace(
        state,
        self_status=replace(state.self_status, shards=(head,)),
        placement=replace(state.placement, instances=(placed,)),
    )


def test_an_idle_instance_leaves_after_its_time():
    assert next_actions(idle(299.0)) == []
    assert next_actions(idle(300.0)) == [Leave(MODEL, EPOCH, "idle for 5 min")]
    assert next_actions(idle(1e9, keep_alive_s=FOR_EVER)) == []
    assert next_actions(idle(None)) == []
    assert idle_s(idle(None), instance(FIRST, SECOND)) == 0.0


def test_one_that_is_not_to_be_kept_stays_for_a_moment():
    assert next_actions(idle(MIN_IDLE_S - 0.1, keep_alive_s=0)) == []
    assert next_actions(idle(MIN_IDLE_S, keep_alive_s=0)) == [Leave(MODEL, EPOCH, "idle")]


def test_an_instance_with_requests_is_not_idle_wherever_they_entered():
    for node_id in ("a", "b"):
        state = idle(300.0)
        asked = replace(state.living[NodeId(node_id)], num_requests={MODEL: 1})
        elsewhere = replace(state.living[NodeId(node_id)], num_requests={ModelId("other"): 1})
        for status, expected in ((asked, None), (elsewhere, 300.0)):
            seen = (
                replace(state, self_status=status)
                if node_id == "a"
                else replace(state, members={NodeId("b"): member(status)})
            )
            assert idle_s(seen, instance(FIRST, SECOND)) == expected


@pytest.mark.parametrize("state", ["loading", "warming", "degraded", "failed"])
def test_only_a_ready_instance_is_idle(state: InstanceState):
    assert idle_s(idle(300.0), instance(FIRST, SECOND, state=state)) is None


@pytest.mark.parametrize("shard_state", ["loading", "ready", "lost"])
def test_a_failed_instance_is_left_alone(shard_state: ShardState):
    failed = two_nodes(shard_status(FIRST), shard_status(SECOND, shard_state, error="x"), state="failed")
    assert next_actions(failed) == []
    assert next_actions(two_nodes(second_state="dead", state="failed")) == []


def test_each_instance_has_an_action_of_its_own():
    other = ModelId("other")
    parts = (part("a", 0, 3), part("a", 0, 3, other))
    state = cluster(
        node("a", shard_status(parts[0]), shard_status(parts[1], "lost", error="damaged")),
        [],
        instance(parts[0], state="loading"),
        instance(parts[1], state="loading", model_id=other),
    )
    assert next_actions(state) == [WarmUp(MODEL, EPOCH), GiveUp(other, EPOCH, "node-a: damaged")]


def test_words_on_another_model_or_epoch_are_not_this_parts():
    state = two_nodes(shard_status(part("a", 0, 1, ModelId("other"))), shard_status(SECOND, assigned_epoch=OLDER))
    assert status_of(state, instance(FIRST, SECOND), FIRST) is None
    assert status_of(state, instance(FIRST, SECOND), SECOND) is None
    assert status_of(both_ready(), instance(FIRST, SECOND), FIRST) == shard_status(FIRST)


def test_orders_go_to_the_last_stage_first_and_name_the_neighbours():
    state = both_ready()
    first, second = Hop("node-a", ":17", NodeId("a")), Hop("node-b", ":16", NodeId("b"))
    assert connect_orders(state, instance(FIRST, SECOND)) == [
        ("b", ConnectOrder(MODEL, EPOCH, 1, 2, previous=first, tail=None, next_name="node-a")),
        ("a", ConnectOrder(MODEL, EPOCH, 0, 2, previous=None, tail=second, next_name="node-b")),
    ]


def test_each_stage_knows_the_one_before_and_a_single_one_knows_nobody():
    parts = (part("a", 0, 0), part("b", 1, 2), part("c", 3, 3))
    others = [member(node("b", shard_status(parts[1]))), member(node("c", shard_status(parts[2])))]
    three = cluster(node("a", shard_status(parts[0])), others, instance(*parts))
    orders = [order for _, order in connect_orders(three, instance(*parts))]
    names = [
        (order.stage, *(hop and hop.name for hop in (order.previous, order.tail)), order.next_name) for order in orders
    ]
    assert names == [(2, "node-b", None, "node-a"), (1, "node-a", None, "node-c"), (0, None, "node-c", "node-b")]
    alone = part("a", 0, 3)
    [(_, order)] = connect_orders(cluster(node("a", shard_status(alone)), [], instance(alone)), instance(alone))
    assert (order.num_stages, order.previous, order.tail) == (1, None, None)


def test_an_offer_is_what_other_models_leave():
    other = ModelId("other")
    state = cluster(
        node("a"),
        [member(node("b", limit_bytes=50)), member(node("c"), "dead"), member(node("d"), "suspect")],
        instance(FIRST, SECOND),
        instance(part("a", 0, 1, other), part("b", 2, 3, other), model_id=other),
        instance(part("a", 0, 3, ModelId("gone")), model_id=ModelId("gone"), state="failed"),
    )
    offered = {one.node_id: (one.memory_bytes, one.reason) for one in offers(state, MODEL, FINGERPRINT)}
    assert offered == {"a": (LIMIT_BYTES - 123, None), "b": (0, None), "d": (LIMIT_BYTES, None)}


def test_nodes_without_the_very_same_files_offer_nothing_and_say_what_to_do():
    state = cluster(node("a"), [member(node("b", models={})), member(node("c", models={MODEL: "fedcba9876543210"}))])
    offered = {one.node_id: (one.memory_bytes, one.reason) for one in offers(state, MODEL, FINGERPRINT)}
    assert offered == {
        "a": (LIMIT_BYTES, None),
        "b": (0, "does not have tiny: `exo-lite import` it there"),
        "c": (0, "has other files of tiny (fedcba98, not 01234567): import the same ones there"),
    }
    assert [one.memory_bytes for one in offers(state, MODEL, None)] == [LIMIT_BYTES] * 3
