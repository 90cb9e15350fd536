"""Who reaches whom, and what is known of nodes that only others reach."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from exo_lite.domain.cluster_events import (
    DEAD_AFTER_S,
    HeartbeatHeard,
    MemberHeardOf,
    MemberJoined,
    MemberLeft,
    TimePassed,
    apply,
)
from exo_lite.domain.cluster_state import SUSPECT_AFTER_S, ClusterState
from exo_lite.domain.heartbeat import RelayedStatus
from exo_lite.domain.ids import BootId, NodeId
from exo_lite.domain.links import (
    RELAY_AFTER_S,
    broken_links,
    direct_links,
    link,
    link_names,
    next_hop,
    relayed_to,
    silent_links,
)
from exo_lite.domain.node import PROTOCOL_VERSION, Device, MemoryUse, NodeIdentity, NodeStatus


def status(
    node_id: str, *, unreached: str = "", reached: str = "", sequence: int = 0, boot: str = "boot"
) -> NodeStatus:
    identity = NodeIdentity(
        NodeId(node_id), BootId(boot), f"node-{node_id}", "c", "1", PROTOCOL_VERSION, ("127.0.0.1:1",), "127.0.0.1:2"
    )
    return NodeStatus(
        identity,
        sequence,
        Device("cpu", "cpu", 1),
        MemoryUse(10),
        reached=tuple(map(NodeId, reached)),
        unreached=tuple(map(NodeId, unreached)),
    )


def seen_from_a(unreached: Mapping[str, str]) -> ClusterState:
    """Node `a` has met the others; each says whom it does not reach."""
    state = ClusterState(status("a", unreached=unreached.get("a", "")))
    for node_id in unreached.keys() - {"a"}:
        state = apply(state, MemberJoined(status(node_id, unreached=unreached[node_id]), 0.0))
    return state


CUT = {"a": "c", "b": "", "c": "a"}
"""Nodes a and c cannot talk, both reach b."""


def test_a_pair_that_others_hear_of_is_a_broken_link():
    assert broken_links(seen_from_a(CUT)) == {link(NodeId("a"), NodeId("c"))}
    assert broken_links(seen_from_a({"a": "", "b": "", "c": "a"})) == {link(NodeId("a"), NodeId("c"))}
    assert broken_links(seen_from_a({"a": "", "b": "", "c": ""})) == frozenset()


def test_a_node_that_nobody_reaches_is_no_broken_link():
    state = seen_from_a({"a": "c", "b": "c", "c": ""})
    assert len(silent_links(state)) == 2
    assert broken_links(state) == frozenset()
    assert broken_links(apply(state, MemberLeft(NodeId("c"), 0.0))) == frozenset()
    assert silent_links(apply(state, MemberLeft(NodeId("c"), 0.0))) == frozenset()


def test_the_way_to_a_node_goes_through_those_that_reach_it():
    state = seen_from_a(CUT)
    assert (next_hop(state, NodeId("b")), next_hop(state, NodeId("c"))) == ("b", "b")
    line = seen_from_a({"a": "cd", "b": "d", "c": "a", "d": "ab"})
    assert next_hop(line, NodeId("d")) == "b"
    assert next_hop(seen_from_a({"a": "bc", "b": "a", "c": "a"}), NodeId("c")) is None
    assert next_hop(state, NodeId("a")) is None


def test_own_links_are_those_whose_calls_are_answered():
    state = seen_from_a({"a": "", "b": "", "c": "", "d": ""})
    state = apply(state, MemberLeft(NodeId("d"), 0.0))
    state = apply(state, HeartbeatHeard(status("b", sequence=1), 1.5, rtt_ms=1.0))
    state = apply(state, HeartbeatHeard(status("c", sequence=1), 1.5))  # it calls, and does not answer
    assert direct_links(state, SUSPECT_AFTER_S) == (("b",), ("c",))
    assert direct_links(state, SUSPECT_AFTER_S - 0.1) == (("b", "c"), ())


def test_word_of_a_node_goes_to_those_that_do_not_reach_it():
    state = seen_from_a({"a": "", "b": "", "c": ""})
    state = apply(state, HeartbeatHeard(status("b", sequence=1, reached="a"), 1.0))
    assert relayed_to(state, NodeId("b"), RELAY_AFTER_S - 0.1) == ()
    assert relayed_to(state, NodeId("b"), RELAY_AFTER_S) == (RelayedStatus(status("c"), RELAY_AFTER_S),)
    reached = apply(state, HeartbeatHeard(status("b", sequence=2, reached="ac"), 1.1))
    assert relayed_to(reached, NodeId("b"), RELAY_AFTER_S) == ()
    assert relayed_to(apply(state, MemberLeft(NodeId("c"), 0.0)), NodeId("b"), RELAY_AFTER_S) == ()
    assert relayed_to(state, NodeId("stranger"), RELAY_AFTER_S) == ()


def test_what_is_passed_on_twice_has_the_age_of_both():
    state = apply(seen_from_a({"a": "", "b": ""}), MemberHeardOf(status("c"), 0.0))
    state = apply(state, MemberHeardOf(status("c", sequence=1), 2.5))
    assert relayed_to(state, NodeId("b"), RELAY_AFTER_S) == (
        RelayedStatus(status("c", sequence=1), RELAY_AFTER_S - 2.5),
    )


def heard_of(
    state: ClusterState, at_s: float, sequence: int, boot: str = "boot", *, age_s: float = 0.0
) -> ClusterState:
    return apply(state, MemberHeardOf(status("c", sequence=sequence, boot=boot), at_s, age_s))


def state_of_c(state: ClusterState) -> str:
    return state.members[NodeId("c")].state


def test_a_node_that_was_never_met_is_known_by_what_others_pass_on_and_leads_where_its_id_is_the_smallest():
    state = apply(ClusterState(status("d")), MemberHeardOf(status("c"), 0.0))
    assert (state_of_c(state), state.members[NodeId("c")].is_indirect, state.leader) == ("suspect", True, "c")
    assert state.members[NodeId("c")].is_reached(0.0) is False
    joined = apply(state, MemberJoined(status("c", sequence=1), 1.0))
    assert (state_of_c(joined), joined.members[NodeId("c")].is_indirect) == ("alive", False)
    assert apply(ClusterState(status("c")), MemberHeardOf(status("c", sequence=9), 0.0)).members == {}


def test_only_newer_words_keep_it():
    state = heard_of(ClusterState(status("a")), 0.0, sequence=1)
    state = heard_of(state, 3.0, sequence=2)
    assert state_of_c(apply(state, TimePassed(DEAD_AFTER_S))) == "suspect"
    state = heard_of(state, 6.0, sequence=2)
    assert state_of_c(apply(state, TimePassed(3.0 + DEAD_AFTER_S))) == "dead"


def test_late_words_of_a_silent_node_do_not_prolong_its_life():
    """Whoever hung was heard by one member a little later than by another, which passes that on seconds later."""
    state = apply(seen_from_a({"a": "", "c": ""}), HeartbeatHeard(status("c", sequence=1), 1.0))
    state = apply(state, TimePassed(1.0 + SUSPECT_AFTER_S))
    state = heard_of(state, 3.5, sequence=2, age_s=2.0)  # it said so at 1.5 s
    assert state_of_c(apply(state, TimePassed(1.25 + DEAD_AFTER_S))) == "suspect"
    state = apply(state, TimePassed(1.5 + DEAD_AFTER_S))
    assert state_of_c(state) == "dead"
    assert heard_of(state, 5.5, sequence=3, age_s=SUSPECT_AFTER_S) is state
    assert state_of_c(heard_of(state, 5.5, sequence=3, age_s=0.5)) == "suspect"


def test_a_stranger_that_is_silent_elsewhere_too_is_not_taken_in():
    state = ClusterState(status("a"))
    assert heard_of(state, 5.0, sequence=1, age_s=SUSPECT_AFTER_S) is state
    assert heard_of(state, 5.0, sequence=1, age_s=0.5).members[NodeId("c")].heard_at_s == 4.5


def test_one_whose_own_heartbeats_cease_becomes_suspect_and_stays():
    state = apply(seen_from_a({"a": "", "c": ""}), HeartbeatHeard(status("c", sequence=1), 1.0))
    for second in range(2, 12):
        state = apply(heard_of(state, float(second), sequence=second), TimePassed(float(second)))
    assert state_of_c(state) == "suspect"
    assert state.members[NodeId("c")].status.sequence == 11


def test_words_that_go_round_do_not_undo_a_goodbye():
    state = apply(heard_of(ClusterState(status("a")), 0.0, sequence=5), MemberLeft(NodeId("c"), 1.0))
    assert heard_of(state, 2.0, sequence=6) is state
    assert state_of_c(heard_of(state, 2.0, sequence=0, boot="next")) == "suspect"


def test_the_dead_are_back_only_with_newer_words():
    state = apply(heard_of(ClusterState(status("a")), 0.0, sequence=5), TimePassed(DEAD_AFTER_S))
    assert state_of_c(state) == "dead"
    assert heard_of(state, 5.0, sequence=5) is state
    assert state_of_c(heard_of(state, 5.0, sequence=6)) == "suspect"
    assert state_of_c(heard_of(state, 5.0, sequence=0, boot="new")) == "suspect"


def test_words_of_another_boot_do_not_replace_a_living_member():
    state = seen_from_a({"a": "", "c": ""})
    assert heard_of(state, 1.0, sequence=9, boot="new") is state


def test_links_are_named_in_order():
    links = {link(NodeId("2"), NodeId("1")), link(NodeId("3"), NodeId("1"))}
    assert link_names(links, {NodeId("1"): "mac", NodeId("2"): "big"}) == [("3", "mac"), ("big", "mac")]


def test_a_status_of_a_build_without_links_breaks_none():
    plain = replace(status("b"), reached=(), unreached=())
    state = apply(ClusterState(status("a")), MemberJoined(plain, 0.0))
    assert silent_links(state) == frozenset()


def test_a_half_that_is_cut_off_as_a_whole_is_lost_and_no_broken_link():
    """The others say so one after the other, and nobody passes on a word of it."""
    state = seen_from_a({"a": "", "b": "", "c": ""})
    state = apply(state, HeartbeatHeard(status("b", sequence=1), 1.9, rtt_ms=1.0))
    state = apply(state, TimePassed(SUSPECT_AFTER_S))
    state = replace(state, self_status=replace(state.self_status, unreached=(NodeId("c"),)))
    assert broken_links(state) == frozenset()
    for second in range(2, 9):  # whether it is alive or suspect then, it is heard of
        state = apply(state, HeartbeatHeard(status("b", sequence=second), second + 0.1, rtt_ms=1.0))
        state = apply(heard_of(state, second + 0.1, sequence=second), TimePassed(second + 0.2))
        assert broken_links(state) == {link(NodeId("a"), NodeId("c"))}
    assert broken_links(apply(state, TimePassed(10.0))) == frozenset()
