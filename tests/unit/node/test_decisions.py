"""What the leader does next, case by case."""

from __future__ import annotations

from dataclasses import replace

import pytest

from exo_lite.domain.cluster_state import ClusterState
from exo_lite.domain.ids import Epoch, InstanceId, ModelId, NodeId
from exo_lite.domain.keep_alive import FOR_EVER
from exo_lite.domain.placement import InstanceState
from exo_lite.domain.worker_report import ShardState
from exo_lite.node.decisions import (
    MIN_IDLE_S,
    Action,
    EvictIdle,
    GiveUp,
    Replan,
    WarmUp,
    idle_s,
    next_actions,
    offers,
)
from tests.unit.node.cluster_states import (
    EPOCH,
    FINGERPRINT,
    FIRST,
    INSTANCE,
    LIMIT_BYTES,
    MODEL,
    SECOND,
    both_ready,
    cluster,
    driven,
    instance,
    member,
    node,
    part,
    shard_status,
    two_nodes,
)

OLDER = Epoch(EPOCH - 1)


def replan(reason: str, *, is_loss: bool, cause: str = "node_lost") -> list[Action]:
    return [Replan(INSTANCE, reason, is_loss=is_loss, cause=cause)]


def test_nothing_is_placed_so_nothing_is_to_do():
    assert next_actions(cluster(node("a"))) == []
    assert next_actions(ClusterState(node("a"))) == []


def test_a_ready_instance_whose_parts_are_ready_is_left_alone():
    assert next_actions(both_ready()) == []


@pytest.mark.parametrize("state", ["loading", "warming"])
def test_an_instance_with_every_part_loaded_is_warmed_up(state: InstanceState):
    assert next_actions(both_ready(state=state)) == [WarmUp(INSTANCE)]


@pytest.mark.parametrize("other", [None, shard_status(SECOND, "loading"), shard_status(SECOND, placed_epoch=OLDER)])
def test_it_is_not_while_a_part_is_loading_or_unheard_of(other):
    assert next_actions(two_nodes(shard_status(FIRST), other, state="loading")) == []


@pytest.mark.parametrize("state", ["loading", "warming", "ready", "degraded"])
def test_a_dead_node_is_planned_again_in_every_state(state: InstanceState):
    seen = two_nodes(shard_status(FIRST), shard_status(SECOND), second_state="dead", state=state)
    assert next_actions(seen) == replan("node-b is lost", is_loss=True)


def test_a_suspect_node_is_not_lost():
    assert next_actions(two_nodes(shard_status(FIRST), shard_status(SECOND), second_state="suspect")) == []


def test_all_lost_nodes_are_named():
    both_dead = cluster(
        node("a"), [member(node("b"), "dead"), member(node("c"), "dead")], instance(SECOND, part("c", 0, 1))
    )
    assert both_dead.lost_reason(instance(SECOND, part("c", 0, 1))) == "node-b and node-c are lost"


def test_a_node_that_was_not_met_yet_is_lost_only_after_a_while():
    placed = instance(FIRST, SECOND)
    unmet = cluster(node("a", shard_status(FIRST)), [], placed)
    assert next_actions(unmet) == []
    missing = replace(unmet, missing=frozenset({NodeId("b")}))
    assert next_actions(missing) == replan("node-b is lost", is_loss=True)


def test_a_worker_that_lives_and_cannot_load_gives_up():
    error = "model.safetensors: ends within tensor x"
    failed = two_nodes(shard_status(FIRST), shard_status(SECOND, "lost", error=error), state="loading")
    assert next_actions(failed) == [GiveUp(INSTANCE, f"node-b: {error}")]


@pytest.mark.parametrize("state", ["loading", "warming", "ready"])
def test_a_worker_that_is_gone_is_planned_again(state: InstanceState):
    gone = shard_status(SECOND, "lost", worker_port=None, error="killed by signal 9")
    assert next_actions(two_nodes(shard_status(FIRST), gone, state=state)) == replan(
        "killed by signal 9", is_loss=False, cause="worker_failed"
    )


def test_a_pipeline_that_broke_in_this_epoch_is_planned_again():
    broken = two_nodes(shard_status(FIRST, error="node-b did not answer"), shard_status(SECOND))
    assert next_actions(broken) == replan("node-b did not answer", is_loss=False)


def test_one_that_broke_in_an_older_epoch_does_not():
    old_word = shard_status(FIRST, joined_epoch=OLDER, error="node-c did not answer")
    assert next_actions(two_nodes(old_word, shard_status(SECOND, "loading"), state="loading")) == []
    assert next_actions(two_nodes(old_word, shard_status(SECOND), state="loading")) == [WarmUp(INSTANCE)]


def test_a_ready_instance_with_a_part_that_loads_again_is_placed_again():
    restarted = two_nodes(shard_status(FIRST), shard_status(SECOND, "loading"))
    assert next_actions(restarted) == replan("node-b started again", is_loss=True)


def idle(seconds: float | None, *, keep_alive_s: float = 300.0) -> ClusterState:
    """A ready instance whose driver says so."""
    state = both_ready()
    first = shard_status(FIRST) if seconds is None else driven(shard_status(FIRST), idle_s=seconds)
    placed = replace(instance(FIRST, SECOND), keep_alive_s=keep_alive_s)
    return replace(
        state,
        self_status=replace(state.self_status, shards=(first,)),
        written=replace(state.written, instances=(placed,)),
    )


def test_an_idle_instance_is_evicted_after_its_time():
    assert next_actions(idle(299.0)) == []
    assert next_actions(idle(300.0)) == [EvictIdle(INSTANCE, "idle for 5 min")]
    assert next_actions(idle(1e9, keep_alive_s=FOR_EVER)) == []
    assert next_actions(idle(None)) == []
    assert idle_s(idle(None), instance(FIRST, SECOND)) == 0.0


def test_one_that_is_not_to_be_kept_stays_for_a_moment():
    assert next_actions(idle(MIN_IDLE_S - 0.1, keep_alive_s=0)) == []
    assert next_actions(idle(MIN_IDLE_S, keep_alive_s=0)) == [EvictIdle(INSTANCE, "idle")]


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
    assert next_actions(state) == [WarmUp(INSTANCE), GiveUp(InstanceId(other, EPOCH), "node-a: damaged")]


def test_two_instances_of_one_model_have_an_action_each():
    parts = part("a", 0, 3), part("b", 0, 3)
    newer = InstanceId(MODEL, Epoch(EPOCH + 1))
    there = node("b", shard_status(parts[1], placed_epoch=newer.epoch))
    old, new = instance(parts[0]), replace(instance(parts[1], state="loading"), epoch=newer.epoch)
    state = cluster(node("a", shard_status(parts[0], "loading")), [member(there)], old, new)
    assert next_actions(state) == [*replan("node-a started again", is_loss=True), WarmUp(newer)]


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
        "b": (0, "does not have tiny: import it there with `exo-lite import`"),
        "c": (0, "has different files of tiny (fedcba98, not 01234567): import the same files there"),
    }
    assert [one.memory_bytes for one in offers(state, MODEL, None)] == [LIMIT_BYTES] * 3
