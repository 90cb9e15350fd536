"""What a node believes of others, event by event."""

from __future__ import annotations

from dataclasses import replace

from exo_lite.domain.cluster_events import (
    DEAD_AFTER_S,
    FORGET_AFTER_S,
    HeartbeatHeard,
    MemberJoined,
    MemberLeft,
    MemberVouchedFor,
    PlacementSeen,
    RefusedConnection,
    RouteFound,
    TimePassed,
    apply,
)
from exo_lite.domain.cluster_state import SUSPECT_AFTER_S, ClusterState
from exo_lite.domain.ids import BootId, Epoch, NodeId
from exo_lite.domain.node import PROTOCOL_VERSION, Device, MemoryUse, NodeIdentity, NodeStatus
from exo_lite.domain.placement import Placement


def status(node_id: str, *, sequence: int = 0, boot: str = "boot") -> NodeStatus:
    identity = NodeIdentity(
        NodeId(node_id), BootId(boot), f"node-{node_id}", "c", "1", PROTOCOL_VERSION, ("127.0.0.1:1",), "127.0.0.1:2"
    )
    return NodeStatus(identity, sequence, Device("cpu", "cpu", 1), MemoryUse(10))


def two_members() -> ClusterState:
    state = ClusterState(status("b"))
    for other in ("a", "c"):
        state = apply(state, MemberJoined(status(other), 0.0))
    return state


def member_state(state: ClusterState, node_id: str) -> str:
    return state.members[NodeId(node_id)].state


def test_silence_makes_suspect_then_dead_and_a_heartbeat_in_between_alive():
    state = two_members()
    state = apply(state, TimePassed(SUSPECT_AFTER_S - 0.1))
    assert member_state(state, "a") == "alive"
    state = apply(state, TimePassed(SUSPECT_AFTER_S))
    assert member_state(state, "a") == "suspect"
    state = apply(state, HeartbeatHeard(status("a", sequence=1), SUSPECT_AFTER_S))
    assert member_state(state, "a") == "alive"
    state = apply(state, TimePassed(DEAD_AFTER_S))
    assert (member_state(state, "a"), member_state(state, "c")) == ("suspect", "dead")


def test_a_member_that_others_reach_stays_suspect():
    state = apply(two_members(), TimePassed(SUSPECT_AFTER_S))
    state = apply(state, MemberVouchedFor(NodeId("a"), 3.9))
    state = apply(state, TimePassed(DEAD_AFTER_S))
    assert (member_state(state, "a"), member_state(state, "c")) == ("suspect", "dead")


def test_refused_connections_speak_at_once_but_not_the_first():
    state = apply(two_members(), RefusedConnection(NodeId("a")))
    assert member_state(state, "a") == "suspect"
    alive_again = apply(state, HeartbeatHeard(status("a", sequence=1), 0.1))
    assert member_state(apply(alive_again, RefusedConnection(NodeId("a"))), "a") == "suspect"
    assert member_state(apply(state, RefusedConnection(NodeId("a"))), "a") == "dead"


def test_the_dead_come_back_by_handshake_only():
    state = apply(two_members(), MemberLeft(NodeId("a"), 0.0))
    assert apply(state, HeartbeatHeard(status("a", sequence=9), 1.0)) is state
    assert apply(state, RefusedConnection(NodeId("a"))) is state
    assert member_state(apply(state, MemberJoined(status("a", boot="new"), 1.0)), "a") == "alive"


def test_a_handshake_that_was_under_way_does_not_undo_a_goodbye():
    state = apply(two_members(), MemberLeft(NodeId("a"), 2.0))
    late = MemberJoined(status("a", sequence=1), 3.0, begun_at_s=1.5)
    assert apply(state, late) is state
    assert member_state(apply(state, replace(late, begun_at_s=2.5)), "a") == "alive"
    assert member_state(apply(state, replace(late, status=status("a", boot="new"))), "a") == "alive"


def test_heartbeats_of_another_boot_or_of_strangers_change_nothing():
    state = two_members()
    assert apply(state, HeartbeatHeard(status("a", boot="other"), 1.0)) is state
    assert apply(state, HeartbeatHeard(status("stranger"), 1.0)) is state
    assert apply(state, RefusedConnection(NodeId("stranger"))) is state
    assert apply(state, MemberLeft(NodeId("stranger"), 0.0)) is state


def test_an_older_status_does_not_replace_a_newer_one():
    state = apply(two_members(), HeartbeatHeard(status("a", sequence=5), 1.0, rtt_ms=4.0))
    state = apply(state, HeartbeatHeard(status("a", sequence=4), 1.1, rtt_ms=8.0))
    member = state.members[NodeId("a")]
    assert (member.status.sequence, member.rtt_ms) == (5, 5.0)


def test_the_leader_is_the_living_member_with_the_smallest_id():
    state = two_members()
    assert (state.leader, state.is_leader) == ("a", False)
    state = apply(state, MemberLeft(NodeId("a"), 0.0))
    assert (state.leader, state.is_leader) == ("b", True)


def test_the_dead_are_forgotten_in_time():
    state = apply(two_members(), TimePassed(DEAD_AFTER_S))
    assert set(state.members) == {"a", "c"}
    assert apply(state, TimePassed(FORGET_AFTER_S)).members == {}


def test_only_a_greater_placement_wins():
    first = Placement(NodeId("a"), Epoch(2), 0)
    state = apply(two_members(), PlacementSeen(first))
    for older in (Placement(NodeId("c"), Epoch(1), 9), first):
        assert apply(state, PlacementSeen(older)) is state
    for newer in (replace(first, revision=1), replace(first, epoch=Epoch(3)), replace(first, author=NodeId("b"))):
        assert apply(state, PlacementSeen(newer)).written == newer


def test_a_route_is_kept_from_heartbeat_to_heartbeat_and_through_silence():
    state = apply(ClusterState(status("b")), MemberJoined(status("a"), 0.0, route="10.0.0.1:7"))
    state = apply(state, HeartbeatHeard(status("a", sequence=1), 1.0, rtt_ms=3.0))
    assert state.address_of(NodeId("a")) == "10.0.0.1:7"
    state = apply(state, TimePassed(1.0 + DEAD_AFTER_S))
    assert state.address_of(NodeId("a")) == "10.0.0.1:7"
    assert apply(state, MemberJoined(status("a", boot="next"), 9.0)).address_of(NodeId("a")) == "127.0.0.1:1"


def test_a_better_route_has_a_round_trip_of_its_own():
    state = apply(two_members(), HeartbeatHeard(status("a", sequence=1), 1.0, rtt_ms=30.0))
    state = apply(state, RouteFound(NodeId("a"), "10.0.0.1:7"))
    assert (state.address_of(NodeId("a")), state.members[NodeId("a")].rtt_ms) == ("10.0.0.1:7", None)
    assert apply(state, RouteFound(NodeId("a"), "10.0.0.1:7")) is state
    assert apply(state, RouteFound(NodeId("z"), "10.0.0.1:7")) is state


def test_a_route_over_an_address_that_the_member_has_no_more_is_over():
    def at(*addresses: str, sequence: int) -> NodeStatus:
        bare = status("a", sequence=sequence)
        return replace(bare, identity=replace(bare.identity, addresses=addresses))

    state = apply(ClusterState(status("b")), MemberJoined(at("10.0.0.1:7", sequence=0), 0.0, route="10.0.0.1:7"))
    state = apply(state, HeartbeatHeard(at("10.0.0.9:7", sequence=1), 1.0))
    assert state.address_of(NodeId("a")) == "10.0.0.9:7"

    forwarded = apply(ClusterState(status("b")), MemberJoined(at("10.0.0.1:7", sequence=0), 0.0, route="nat:7"))
    forwarded = apply(forwarded, HeartbeatHeard(at("10.0.0.9:7", sequence=1), 1.0))
    assert forwarded.address_of(NodeId("a")) == "nat:7"
