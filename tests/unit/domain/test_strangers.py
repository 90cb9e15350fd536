"""Nodes that a placement names before this one has met them."""

from __future__ import annotations

from exo_lite.domain.cluster_events import DEAD_AFTER_S, MemberJoined, MemberLeft, PlacementSeen, TimePassed, apply
from exo_lite.domain.cluster_state import ClusterState
from exo_lite.domain.ids import BootId, Epoch, ModelId, NodeId
from exo_lite.domain.load_options import LoadOptions
from exo_lite.domain.model_spec import ModelSpec
from exo_lite.domain.node import PROTOCOL_VERSION, Device, MemoryUse, NodeIdentity, NodeStatus
from exo_lite.domain.placement import Instance, Placement
from exo_lite.domain.plan import Assignment
from exo_lite.domain.shard import Shard

A, B = NodeId("a"), NodeId("b")
SPEC = ModelSpec(
    model_type="llama",
    num_hidden_layers=2,
    hidden_size=8,
    intermediate_size=8,
    num_attention_heads=1,
    num_key_value_heads=1,
    head_dim=8,
    vocab_size=8,
    max_position_embeddings=8,
)


def status(node_id: NodeId) -> NodeStatus:
    identity = NodeIdentity(
        node_id, BootId("boot"), node_id, "c", "1", PROTOCOL_VERSION, ("127.0.0.1:1",), "127.0.0.1:2"
    )
    return NodeStatus(identity, 0, Device("cpu", "cpu", 1), MemoryUse(10))


def newcomer() -> ClusterState:
    """Node a, which has just heard of a model on a and b, and has not met b."""
    model = ModelId("m")
    parts = tuple(
        Assignment(node_id, node_id, Shard(model, layer, layer, 2), 1, 1, 1) for layer, node_id in enumerate((A, B))
    )
    instance = Instance(model, "f", SPEC, Epoch(1), LoadOptions("float32"), parts, "ready")
    return apply(ClusterState(status(A)), PlacementSeen(Placement(B, Epoch(1), 0, (instance,))))


def test_a_node_not_met_yet_is_not_lost():
    state = apply(apply(newcomer(), TimePassed(100.0)), TimePassed(100.0 + DEAD_AFTER_S - 0.1))
    assert not state.is_lost(B)
    assert not state.is_lost(A)


def test_a_node_that_cannot_be_met_is_lost_in_the_end():
    state = apply(apply(newcomer(), TimePassed(100.0)), TimePassed(100.0 + DEAD_AFTER_S))
    assert state.is_lost(B)
    assert not state.is_lost(A)


def test_a_node_that_was_met_late_is_not_lost_before_it_dies():
    state = apply(apply(newcomer(), TimePassed(0.0)), TimePassed(DEAD_AFTER_S))
    state = apply(state, MemberJoined(status(B), DEAD_AFTER_S))
    assert not state.is_lost(B)
    state = apply(state, MemberLeft(B, DEAD_AFTER_S))
    assert state.is_lost(B)


def test_time_that_changes_nothing_leaves_the_state_as_it_is():
    state = apply(newcomer(), TimePassed(0.0))
    assert apply(state, TimePassed(1.0)) is state
