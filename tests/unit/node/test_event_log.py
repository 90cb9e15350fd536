from __future__ import annotations

import logging
from dataclasses import replace

import pytest

from exo_lite.domain.cluster_state import ClusterState, MemberState
from exo_lite.domain.ids import Epoch, ModelId, NodeId
from exo_lite.domain.placement import Instance, UnloadedModel
from exo_lite.node.event_log import LINES_OF_A_KIND, MAX_EVENTS, SPAN_S, EventLog, NodeEvent, describe_change
from tests.set_clock import SetClock
from tests.unit.node.cluster_states import EPOCH, FIRST, MODEL, SECOND, cluster, instance, member, node

WHO = "node-b (10.0.0.98:52414)"


def seen(state: MemberState | None) -> ClusterState:
    return cluster(node("a"), [member(node("b"), state)] if state else [])


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (None, "alive", [("node_joined", f"{WHO} joined", None)]),
        ("dead", "alive", [("node_joined", f"{WHO} joined", None)]),
        ("alive", "suspect", [("node_suspect", f"{WHO} does not answer", None)]),
        ("suspect", "alive", []),
        ("alive", "alive", []),
        ("alive", "dead", [("node_lost", f"{WHO} is lost", "start it again with `exo-lite node` on node-b")]),
        ("suspect", "dead", [("node_lost", f"{WHO} is lost", "start it again with `exo-lite node` on node-b")]),
        ("dead", "dead", []),
        ("dead", None, []),
    ],
)
def test_what_becomes_of_a_member_is_said_once(
    before: MemberState | None, after: MemberState | None, expected: list[tuple[str, str, str | None]]
):
    assert list(describe_change(seen(before), seen(after))) == expected


def test_a_newer_heartbeat_is_no_event():
    before = seen("alive")
    after = cluster(node("a"), [replace(member(node("b")), heard_at_s=11.0, rtt_ms=3.0)])
    assert list(describe_change(before, after)) == []


PLACED = instance(FIRST, SECOND, state="loading")


def described(before: Instance | None, after: Instance | None) -> list[tuple[str, str, str | None]]:
    states = [cluster(node("a"), [], *([one] if one else [])) for one in (before, after)]
    return list(describe_change(*states))


def test_what_becomes_of_a_model_is_said_with_its_reason_and_the_way_out():
    assert described(None, PLACED) == [("model_placed", "tiny placed on node-a 0-1, node-b 2-3", None)]
    anew = replace(PLACED, epoch=Epoch(6), reason="node-c is lost")
    placed = [("model_placed", "tiny placed on node-a 0-1, node-b 2-3 because node-c is lost", None)]
    assert described(PLACED, anew) == placed
    assert described(PLACED, replace(PLACED, state="warming")) == []
    ready = replace(PLACED, state="ready")
    assert described(PLACED, ready) == [("model_ready", "tiny is ready: a token went through every hop", None)]
    degraded = replace(PLACED, state="degraded", reason="slow")
    assert described(ready, degraded) == [("model_degraded", "tiny is degraded: slow", None)]
    [(kind, text, fix)] = described(ready, replace(ready, state="failed", reason="short by 3 GiB"))
    assert (kind, text, bool(fix)) == ("model_failed", "tiny cannot run: short by 3 GiB", True)
    assert described(ready, ready) == []
    assert described(ready, None) == [("model_unloaded", "tiny was unloaded", None)]


def test_a_model_that_left_says_why_also_to_who_missed_that_placement():
    before = cluster(node("a"), [], replace(PLACED, state="ready"))
    gone = cluster(node("a"))
    unloaded = (
        UnloadedModel(MODEL, Epoch(EPOCH - 1), "tiny was evicted: idle for 1 h"),
        UnloadedModel(MODEL, Epoch(EPOCH + 1), "tiny was evicted: idle for 5 min"),
        UnloadedModel(ModelId("other"), Epoch(EPOCH + 2), "other was unloaded"),
    )
    after = replace(gone, written=replace(gone.written, epoch=Epoch(EPOCH + 2), unloaded=unloaded))
    assert list(describe_change(before, after)) == [("model_unloaded", "tiny was evicted: idle for 5 min", None)]


def test_events_without_any_placement_are_none():
    empty = ClusterState(node("a"))
    assert list(describe_change(empty, empty)) == []


def test_the_log_keeps_the_newest_events_with_their_time(caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.INFO)
    clock = SetClock()
    events = EventLog(clock)
    for number in range(MAX_EVENTS + 5):
        clock.wall_s = float(number)
        events.add("note", f"event {number}")
    clock.wall_s = 105.0
    events.record_change(seen("alive"), seen("dead"))
    kept = list(events)
    assert len(kept) == MAX_EVENTS
    assert kept[0] == NodeEvent(6.0, "note", "event 6")
    assert (kept[-1].time, kept[-1].kind) == (105.0, "node_lost")
    assert [record.levelno for record in caplog.records[-2:]] == [logging.INFO, logging.WARNING]


def test_a_kind_that_comes_by_the_hundred_does_not_fill_the_log(caplog: pytest.LogCaptureFixture):
    clock = SetClock()
    events = EventLog(clock)
    with caplog.at_level("INFO"):
        for number in range(500):
            events.add("node_lost", f"loss {number}", "see the message")
        events.add("started", "another kind")
        clock.now_s = SPAN_S
        events.add("node_lost", "one more", "see the message")
    assert len(caplog.records) == LINES_OF_A_KIND + 2
    assert caplog.records[-1].__dict__["left_out"] == 500 - LINES_OF_A_KIND
    assert len(list(events)) == MAX_EVENTS


def test_a_link_that_breaks_and_works_again_is_told_once_each():
    whole = cluster(node("a"), [member(node("b")), member(node("c"))])
    cut = replace(whole, self_status=replace(whole.self_status, unreached=(NodeId("c"),)))
    [(kind, text, fix)] = describe_change(whole, cut)
    assert (kind, text) == ("link_broken", "node-a and node-c cannot reach each other")
    assert fix is not None
    assert "firewall" in fix
    assert list(describe_change(cut, cut)) == []
    assert list(describe_change(cut, whole)) == [
        ("link_mended", "resolved: node-a and node-c cannot reach each other", None)
    ]


def test_a_node_of_another_version_is_told_with_the_way_out():
    other = node("b")
    newer = member(replace(other, identity=replace(other.identity, version="9.9.9")))
    told = list(describe_change(cluster(node("a")), cluster(node("a"), [newer])))
    assert [kind for kind, _, _ in told] == ["node_joined", "version_differs"]
    assert told[1][1:] == (
        "node-b runs exo-lite 9.9.9, node-a runs 1.2.3",
        "install the same exo-lite version on all nodes",
    )
