"""Two instances of one model after two halves of a cluster have met again."""

from __future__ import annotations

from dataclasses import replace

import pytest

from exo_lite.domain.cluster_state import ClusterState
from exo_lite.domain.ids import Epoch, InstanceId, ModelId, NodeId
from exo_lite.domain.placement import Dot, InstanceState, Placement
from exo_lite.domain.worker_report import DriverReport
from exo_lite.node.cluster import Cluster
from exo_lite.node.decisions import MIN_IDLE_S, EvictSibling, next_actions, offers
from exo_lite.node.leader import Leader
from exo_lite.node.supervisor import Supervisor
from tests.loopback import CLOCK
from tests.unit.node.cluster_states import (
    EPOCH,
    LIMIT_BYTES,
    MODEL,
    cluster,
    instance,
    member,
    node,
    part,
    shard_status,
)
from tests.unit.node.conftest import prove_nothing

HERE, THERE = part("a", 0, 3), part("b", 0, 3)
DOT = Dot(NodeId("b"), 7)
EVICTED = EvictSibling(InstanceId(MODEL, Epoch(4)), DOT)


def healed(*, idle_s: float = 0.0, state: InstanceState = "ready", error: str | None = None) -> ClusterState:
    """Node a serves; b does too, from the time when the two did not know of each other."""
    other = shard_status(
        THERE, placed_epoch=Epoch(4), joined_epoch=Epoch(4), error=error, driver=DriverReport(idle_s=idle_s)
    )
    state_of = cluster(node("a", shard_status(HERE)), [member(node("b", other))])
    sibling = replace(instance(THERE, state=state), epoch=Epoch(4), dot=DOT)
    placement = Placement(NodeId("a"), EPOCH, 0, (instance(HERE),), clock={NodeId("a"): 9}, siblings=(sibling,))
    return replace(state_of, written=placement)


def test_answers_of_the_one_that_was_not_chosen_go_on_until_it_has_no_more():
    state = healed()
    [sibling] = state.written.siblings
    assert next_actions(state) == []
    assert state.end_reason(sibling) is None
    assert next_actions(healed(idle_s=MIN_IDLE_S)) == [EVICTED]
    gone = replace(state, written=replace(state.written, siblings=()))
    assert gone.end_reason(sibling) == "tiny was placed again"


@pytest.mark.parametrize(("state", "error"), [("failed", None), ("loading", None), ("ready", "node-c is gone")])
def test_one_that_serves_nobody_is_unloaded_at_once(state: InstanceState, error: str | None):
    assert next_actions(healed(state=state, error=error)) == [EVICTED]


def test_one_whose_node_has_not_been_met_yet_may_still_have_answers_under_way():
    unmet = replace(healed(), members={})
    assert next_actions(unmet) == []
    assert next_actions(replace(unmet, missing=frozenset({NodeId("b")}))) == [EVICTED]
    without_worker = replace(unmet, members={NodeId("b"): member(node("b"))})
    assert next_actions(without_worker) == [EVICTED]


def test_it_takes_its_memory_until_it_has_left():
    state = healed()
    offered = {one.node_id: one.memory_bytes for one in offers(state, ModelId("other"), None)}
    assert offered == {"a": LIMIT_BYTES - 123, "b": LIMIT_BYTES - 123}


def test_unloading_a_model_unloads_both():
    seen = Cluster(healed())
    Leader(seen, prove_nothing, CLOCK, Supervisor(CLOCK)).unplace(MODEL)
    assert (seen.state.written.instances, seen.state.written.siblings) == ((), ())
