"""What becomes of two placements that were written without knowledge of each other."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from exo_lite.domain.cluster_events import DEAD_AFTER_S, RESTORED_PATIENCE_S, PlacementSeen, TimePassed, apply
from exo_lite.domain.cluster_state import REFUSALS_TO_DIE, ClusterState
from exo_lite.domain.healing import newest, signed
from exo_lite.domain.ids import Epoch, ModelId, NodeId
from exo_lite.domain.placement import NO_DOT, Dot, Instance, InstanceState, Placement
from tests.unit.node.cluster_states import MODEL, instance, member, node, part

A, C = NodeId("a"), NodeId("c")
NOTHING = Placement.empty()
OTHER = ModelId("other")


def placed(
    nodes: str, state: InstanceState, epoch: int, dot: Dot, model_id: ModelId = MODEL, reason: str | None = None
) -> Instance:
    parts = [part(name, index, index) for index, name in enumerate(nodes)]
    return replace(instance(*parts, state=state, reason=reason, model_id=model_id), epoch=Epoch(epoch), dot=dot)


def written(author: NodeId, clock: dict[NodeId, int], *instances: Instance, epoch: int = 5) -> Placement:
    return Placement(author, Epoch(epoch), 0, instances, clock=clock)


BEFORE = written(A, {A: 10}, placed("abcd", "ready", 5, Dot(A, 10)))
FAILED = written(A, {A: 12}, placed("ab", "failed", 6, Dot(A, 12), reason="c and d are lost"), epoch=7)
SERVES = written(C, {A: 10, C: 3}, placed("cd", "ready", 6, Dot(C, 3)), epoch=6)


def rewrite(old: Placement, author: NodeId, *instances: Instance, wall_s: float = 0.0) -> Placement:
    return signed(old, replace(old, instances=instances), author, wall_s=wall_s)


def test_a_half_that_serves_is_left_alone_by_one_that_failed_whatever_the_epochs():
    healed = newest(FAILED, SERVES)
    assert healed == newest(SERVES, FAILED)
    assert healed.instances == SERVES.instances
    assert healed.instances[0].reason is None
    assert healed.siblings == FAILED.instances
    assert (healed.epoch, healed.clock) == (7, {A: 12, C: 3})


def test_the_newer_of_one_history_wins_even_where_it_fails():
    assert newest(BEFORE, FAILED) == newest(FAILED, BEFORE) == FAILED
    healed = newest(FAILED, SERVES)
    assert newest(healed, FAILED) == newest(SERVES, healed) == healed
    lost_later = rewrite(healed, A, placed("cd", "failed", 6, NO_DOT))
    assert newest(healed, lost_later) == newest(lost_later, SERVES) == lost_later


def test_of_two_halves_that_serve_every_node_chooses_the_same_and_the_other_finishes():
    other = written(A, {A: 12}, placed("ab", "ready", 7, Dot(A, 12)), epoch=7)
    healed = newest(other, SERVES)
    assert healed == newest(SERVES, other)
    assert (healed.instances, healed.siblings) == (other.instances, SERVES.instances)
    assert healed.serves(SERVES.instances[0])
    assert not newest(FAILED, SERVES).serves(FAILED.instances[0])
    without = signed(healed, replace(healed, siblings=()), A, wall_s=0.0)
    assert newest(without, SERVES) == newest(healed, without) == without


def test_models_of_either_half_stay_and_what_was_unloaded_does_not_come_back():
    more = replace(SERVES, instances=(*SERVES.instances, placed("cd", "loading", 6, Dot(C, 2), OTHER)))
    assert {one.model_id for one in newest(FAILED, more).instances} == {MODEL, OTHER}
    unloaded = rewrite(BEFORE, A)
    assert newest(unloaded, BEFORE).instances == newest(BEFORE, unloaded).instances == ()


def test_what_an_author_leaves_as_it_was_keeps_its_dot():
    kept, new = BEFORE.instances[0], placed("a", "loading", 6, NO_DOT, OTHER)
    after = rewrite(BEFORE, C, kept, new)
    assert {one.model_id: one.dot for one in after.instances} == {MODEL: Dot(A, 10), OTHER: Dot(C, 1)}
    assert after.clock == {A: 10, C: 1}


def test_an_author_that_starts_with_nothing_is_not_taken_for_an_old_one():
    later = rewrite(BEFORE, A, *BEFORE.instances, wall_s=1_000.0)
    assert rewrite(later, A, wall_s=1_000.0).clock[A] == later.clock[A] + 1
    again = rewrite(NOTHING, A, placed("a", "loading", 1, NO_DOT, OTHER), wall_s=2_000.0)
    assert {one.model_id for one in newest(SERVES, again).instances} == {MODEL, OTHER}


RESTORED = replace(BEFORE, is_restored=True, instances=(placed("abcd", "loading", 5, Dot(A, 10)),))


def test_a_pinned_model_from_before_a_restart_changes_nothing_of_what_goes_on():
    assert newest(RESTORED, BEFORE) == newest(BEFORE, RESTORED) == BEFORE
    assert newest(RESTORED, FAILED) == FAILED


def test_a_pinned_model_that_nobody_else_has_heard_of_is_added():
    news = replace(RESTORED, clock={A: 11}, instances=(placed("ab", "loading", 6, Dot(A, 11), OTHER),))
    both = newest(BEFORE, news)
    assert both == newest(news, BEFORE)
    assert ([one.model_id for one in both.instances], both.is_restored) == ([OTHER, MODEL], False)


def test_of_two_files_from_before_a_restart_the_newer_holds():
    newer = replace(RESTORED, clock={A: 11}, instances=(placed("ab", "loading", 6, Dot(A, 11), OTHER),))
    assert newest(RESTORED, newer) == newest(newer, RESTORED) == newer


def test_after_a_restart_of_all_there_is_time_for_the_others_to_come():
    state = apply(ClusterState(node("a")), PlacementSeen(RESTORED))
    state = apply(state, TimePassed(0.0))
    assert apply(state, TimePassed(DEAD_AFTER_S)).missing == frozenset()
    assert apply(state, TimePassed(RESTORED_PATIENCE_S)).missing == {"b", "c", "d"}


def test_nodes_that_the_other_half_counts_on_are_awaited_and_not_taken_for_lost():
    """They were dead for this half, and are met one after the other."""
    state = ClusterState(node("a"), {NodeId(name): member(node(name), "dead") for name in "cd"}, FAILED)
    state = apply(state, TimePassed(10.0))
    assert state.is_lost(NodeId("d"))
    healed = apply(apply(state, PlacementSeen(SERVES)), TimePassed(11.0))
    assert not healed.is_lost(NodeId("c"))
    assert not healed.is_lost(NodeId("d"))
    assert apply(healed, TimePassed(11.0 + DEAD_AFTER_S)).is_lost(NodeId("d"))
    gave_up = written(C, {A: 12, C: 4}, placed("cd", "failed", 6, Dot(C, 4)), epoch=7)
    assert apply(state, PlacementSeen(gave_up)).members == state.members
    own = rewrite(healed.written, A, placed("cd", "loading", 8, NO_DOT))
    dead_again = replace(healed, members={NodeId("d"): member(node("d"), "dead")})
    assert apply(dead_again, PlacementSeen(own)).is_lost(NodeId("d"))


def test_a_node_whose_process_is_gone_stays_dead_though_another_leader_still_counts_on_it():
    gone = replace(member(node("d"), "dead"), num_refusals=REFUSALS_TO_DIE)
    state = ClusterState(node("a"), {NodeId("c"): member(node("c")), NodeId("d"): gone}, FAILED)
    told = apply(state, PlacementSeen(SERVES))
    assert told.members[NodeId("d")].state == "dead"
    assert told.is_lost(NodeId("d"))


def test_a_placement_of_a_version_without_clocks_is_compared_by_its_epoch():
    old = replace(SERVES, clock={}, epoch=Epoch(9))
    assert newest(FAILED, old) == newest(old, FAILED) == old


STATES: tuple[InstanceState, ...] = ("loading", "warming", "ready", "failed")


@given(data=st.data())
def test_whoever_hears_what_in_whatever_order_all_hold_the_same(data: st.DataObject):
    """Three leaders write and hear of each other at random; then everybody hears everything, in an order of its own."""
    names = [NodeId(name) for name in "abc"]
    held = dict.fromkeys(names, NOTHING)
    for _ in range(data.draw(st.integers(1, 10))):
        name, other = data.draw(st.sampled_from(names)), data.draw(st.sampled_from(names))
        theirs = held[other]
        if name != other:
            held[name] = newest(held[name], theirs)
        else:
            held[name] = _next(held[name], name, data.draw(st.sampled_from(STATES)))
    ends = []
    for _ in names:
        final = NOTHING
        for one in data.draw(st.permutations([*held.values()])):
            final = newest(final, one)
        ends.append(final)
    assert ends[0] == ends[1] == ends[2]


def _next(old: Placement, author: NodeId, state: InstanceState) -> Placement:
    epoch = Epoch(old.epoch + 1)
    new = replace(old, epoch=epoch, instances=(placed(author, state, epoch, NO_DOT),))
    return signed(old, new, author, wall_s=0.0)
