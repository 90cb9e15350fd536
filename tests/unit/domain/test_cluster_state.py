"""What readers see of a placement: instances as they are, whatever the leader last wrote."""

from __future__ import annotations

from dataclasses import replace

import pytest

from exo_lite.domain.cluster_state import ClusterState
from exo_lite.domain.ids import Epoch, InstanceId, ModelId, NodeId
from exo_lite.domain.placement import InstanceState, Placement
from tests.unit.node.cluster_states import (
    EPOCH,
    FIRST,
    INSTANCE,
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

NEXT = InstanceId(MODEL, Epoch(EPOCH + 1))


def test_an_instance_that_lost_a_node_is_degraded_however_one_asks_for_it():
    state = two_nodes(shard_status(FIRST), shard_status(SECOND), second_state="dead")
    [seen] = state.instances
    assert (seen.state, seen.reason) == ("degraded", "node-b is lost")
    assert state.instance_of(MODEL) == state.find(INSTANCE) == seen
    assert [one.state for one in state.written.instances] == ["ready"]
    assert state.end_reason(seen) == "node-b is lost"


@pytest.mark.parametrize("state", ["loading", "warming", "failed"])
def test_one_that_was_not_ready_yet_stays_as_it_was_written(state: InstanceState):
    assert [one.state for one in two_nodes(second_state="dead", state=state).instances] == [state]


def test_a_part_is_lost_with_its_node_and_loading_before_its_node_has_heard_of_it():
    placed = instance(FIRST, SECOND)
    unheard = two_nodes()
    assert [unheard.shard_state(placed, one) for one in (FIRST, SECOND)] == ["loading", "loading"]
    assert [both_ready().shard_state(placed, one) for one in (FIRST, SECOND)] == ["ready", "ready"]
    dead = two_nodes(shard_status(FIRST), shard_status(SECOND), second_state="dead")
    assert [dead.shard_state(placed, one) for one in (FIRST, SECOND)] == ["ready", "lost"]
    assert dead.shard_status(placed, SECOND) is None


def test_words_on_another_model_or_epoch_are_not_this_parts():
    older = shard_status(SECOND, placed_epoch=Epoch(EPOCH - 1))
    state = two_nodes(shard_status(part("a", 0, 1, ModelId("other"))), older)
    assert state.shard_status(instance(FIRST, SECOND), FIRST) is None
    assert state.shard_status(instance(FIRST, SECOND), SECOND) is None
    assert both_ready().shard_status(instance(FIRST, SECOND), FIRST) == shard_status(FIRST)


def test_two_instances_of_one_model_stand_side_by_side_each_with_its_own_workers():
    old, new = part("a", 0, 3), part("b", 0, 3)
    there = node("b", shard_status(new, "loading", placed_epoch=NEXT.epoch))
    placed = instance(old), replace(instance(new, state="loading"), epoch=NEXT.epoch)
    state = cluster(node("a", shard_status(old)), [member(there)], *placed)
    assert [one.id for one in state.instances] == [INSTANCE, NEXT]
    assert state.find(INSTANCE) == placed[0]
    assert state.find(NEXT) == placed[1]
    assert (state.shard_state(placed[0], old), state.shard_state(placed[1], new)) == ("ready", "loading")
    assert state.shard_status(placed[0], new) is None
    assert [state.end_reason(one) for one in placed] == [None, None]


def test_requests_go_to_the_one_that_is_ready_and_to_the_newest_where_both_are():
    old, new = instance(part("a", 0, 3)), replace(instance(part("a", 0, 3), state="loading"), epoch=NEXT.epoch)
    assert cluster(node("a"), [], old, new).instance_of(MODEL) == old
    ready = replace(new, state="ready")
    assert cluster(node("a"), [], old, ready).instance_of(MODEL) == ready


def test_an_answer_ends_with_its_own_instance_and_says_why():
    placed = instance(FIRST, SECOND)
    anew = replace(placed, epoch=NEXT.epoch, reason="node-c is lost")
    failed = replace(placed, state="failed", reason="damaged")
    state = both_ready()

    def end_reason(*instances) -> str | None:
        return replace(state, written=Placement(NodeId("a"), EPOCH, 0, instances)).end_reason(placed)

    assert end_reason(placed) is None
    assert end_reason() == "tiny was unloaded"
    assert end_reason(anew) == "tiny was placed again because node-c is lost"
    assert end_reason(failed) == "tiny failed: damaged"


def test_before_any_placement_there_is_nothing():
    state = ClusterState(node("a"))
    assert state.written.is_empty
    assert (state.epoch, state.instances, state.instance_of(MODEL), state.find(INSTANCE)) == (0, (), None, None)
