"""What the leader does where two nodes that live cannot reach each other."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from exo_lite.domain.cluster_events import HeartbeatHeard, SelfChanged
from exo_lite.domain.cluster_state import ClusterState
from exo_lite.domain.errors import NotReady
from exo_lite.domain.ids import NodeId
from exo_lite.domain.links import link
from exo_lite.domain.load_options import LoadRequest
from exo_lite.domain.node import NodeStatus, ShardStatus
from exo_lite.domain.placement import Instance, ModelDescription
from exo_lite.engine.torch_c.footprint import footprint
from exo_lite.node.cluster import Cluster
from exo_lite.node.decisions import Replan, next_actions, ring_links
from exo_lite.node.failures import DOUBTFUL_FOR_S, MAX_RETRY_AFTER_S, RETRY_AFTER_S, Failures
from exo_lite.node.leader import Leader
from exo_lite.node.supervisor import Supervisor
from tests.loopback import CLOCK
from tests.unit.node.cluster_states import (
    EPOCH,
    FINGERPRINT,
    INSTANCE,
    MODEL,
    SPEC,
    cluster,
    driven,
    instance,
    member,
    node,
    part,
    shard_status,
)
from tests.waiting import until

A, B, C = NodeId("a"), NodeId("b"), NodeId("c")
PARTS = part("a", 0, 1), part("b", 2, 2), part("c", 3, 3)
LIMIT_BYTES = 400_000
_SIZES = footprint(SPEC, LoadRequest(context_length=64).resolve(SPEC))
TIGHT_BYTES = _SIZES.middle_bytes + 2 * _SIZES.layer_bytes
"""Room for two layers in the middle and one at either end: it takes all three nodes."""
TINY = ModelDescription(MODEL, FINGERPRINT, SPEC)


def word(index: int, *, proof_age_s: float | None = None, **changes: Any) -> ShardStatus:
    return driven(shard_status(PARTS[index], **changes), proof_age_s=proof_age_s)


def three(
    *shards: ShardStatus,
    unreached: dict[str, str] | None = None,
    placed: Instance | None = None,
    limit: int = LIMIT_BYTES,
) -> ClusterState:
    """Nodes a, b and c, with a shard each; `unreached`: whom each does not reach."""
    cut = unreached or {}
    words = shards or tuple(shard_status(one) for one in PARTS)

    def status(index: int, name: str) -> NodeStatus:
        one = node(name, *([words[index]] if placed is None else []), limit_bytes=limit)
        return replace(one, unreached=tuple(map(NodeId, cut.get(name, ""))))

    others = [member(status(1, "b")), member(status(2, "c"))]
    return cluster(status(0, "a"), others, instance(*PARTS) if placed is None else placed)


CUT = {"a": "c", "c": "a"}
BROKEN = "node-a and node-c cannot reach each other"


def test_streams_run_between_neighbours_and_from_the_last_to_the_first():
    assert ring_links(instance(*PARTS)) == {link(A, B), link(B, C), link(A, C)}
    assert ring_links(instance(part("a", 0, 3))) == frozenset()


def test_a_ring_over_a_broken_link_is_placed_again_unless_tokens_still_go_round():
    fresh, stale = word(0, proof_age_s=1.0), word(0, proof_age_s=9.0)
    rest = (word(1), word(2))
    assert next_actions(three(fresh, *rest, unreached=CUT)) == []
    [action] = next_actions(three(stale, *rest, unreached=CUT))
    assert action == Replan(INSTANCE, BROKEN, is_loss=True, cause="link_broken")
    loading = three(stale, *rest, unreached=CUT)
    waiting = replace(loading.written, instances=(instance(*PARTS, state="loading"),))
    assert next_actions(replace(loading, written=waiting)) == [action]
    assert next_actions(three(stale, *rest)) == []


def test_a_stream_that_broke_off_names_its_two_nodes():
    broken = word(0, error="node-c did not answer", failed_stages=(2, 0))
    [action] = next_actions(three(broken, word(1, error="ended with it"), word(2)))
    assert isinstance(action, Replan)
    assert (action.failed_link, action.cause) == (link(A, C), "link_broken")
    assert action.reason == "the stream between node-a and node-c broke off: node-c did not answer"


def test_a_worker_that_is_gone_explains_the_streams_that_broke_off():
    broken = word(0, error="node-c did not answer", failed_stages=(2, 0))
    gone = word(2, state="lost", worker_port=None, error="killed by signal 9")
    [action] = next_actions(three(broken, word(1), gone))
    assert isinstance(action, Replan)
    assert (action.reason, action.failed_link, action.cause) == ("killed by signal 9", None, "worker_failed")


def leader(state: ClusterState) -> tuple[Leader, Cluster]:
    async def prove_for_ever(instance: Instance) -> None:
        await asyncio.Event().wait()

    seen = Cluster(state)
    return Leader(seen, prove_for_ever, CLOCK, Supervisor(CLOCK)), seen


def placed_on(seen: Cluster) -> str:
    [one] = seen.state.written.instances
    return "".join(assignment.node_id for assignment in one.assignments)


def test_a_model_is_placed_on_nodes_that_reach_each_other():
    subject, seen = leader(three(unreached=CUT, placed=instance(*PARTS, state="failed")))
    subject.place(TINY, LoadRequest(context_length=64))
    assert placed_on(seen) == "ba"


def test_memory_enough_and_no_ring_may_be_ready_later():
    subject, _ = leader(three(unreached=CUT, placed=instance(*PARTS, state="failed"), limit=TIGHT_BYTES))
    with pytest.raises(NotReady, match=BROKEN):
        subject.place(TINY, LoadRequest(context_length=64))


async def test_a_link_whose_stream_broke_off_is_left_alone_in_the_next_plan(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("exo_lite.node.leader.UNEXPLAINED_FOR_S", 0.0)
    broken = word(0, error="node-c did not answer", failed_stages=(2, 0))
    subject, seen = leader(three(broken, word(1), word(2)))
    running = asyncio.create_task(subject.run())
    try:
        await until(lambda: seen.state.epoch > EPOCH, "placed again")
    finally:
        running.cancel()
        await asyncio.wait({running})
    assert placed_on(seen) == "ba"


async def test_a_failed_model_comes_back_when_the_link_works_again():
    failed = instance(*PARTS, state="failed", reason=BROKEN)
    subject, seen = leader(three(unreached=CUT, placed=failed, limit=TIGHT_BYTES))
    running = asyncio.create_task(subject.run())
    try:
        await until(lambda: "which would be enough, but" in (_only(seen).reason or ""), "it was tried, and given up")
        assert (_only(seen).state, _only(seen).cause) == ("failed", "link_broken")
        mended = replace(seen.state.self_status, unreached=(), sequence=9)
        seen.apply(SelfChanged(mended))
        other = replace(seen.state.members[C].status, unreached=(), sequence=9)
        seen.apply(HeartbeatHeard(other, 11.0))
        await until(lambda: _only(seen).state == "loading", "placed again")
    finally:
        running.cancel()
        await asyncio.wait({running})
    assert _only(seen).reason == "a link works again"
    assert sorted(placed_on(seen)) == ["a", "b", "c"]


def _only(seen: Cluster) -> Instance:
    [one] = seen.state.written.instances
    return one


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def test_a_link_is_doubted_for_a_while():
    clock = Clock()
    failures = Failures(clock)
    failures.doubt(link(A, C))
    clock.now_s += DOUBTFUL_FOR_S - 1
    assert failures.doubtful == {link(A, C)}
    clock.now_s += 1
    assert failures.doubtful == frozenset()


def test_a_pinned_model_is_tried_again_after_pauses_that_grow():
    clock, state = Clock(), three()
    failures = Failures(clock)
    pauses = []
    for _ in range(6):
        failures.give_up(MODEL, state, is_permanent=False)
        assert failures.retry_reason(MODEL, state, is_pinned=False) is None
        started_s = clock.now_s
        while failures.retry_reason(MODEL, state, is_pinned=True) is None:
            clock.now_s += 1
        pauses.append(clock.now_s - started_s)
    assert pauses == [RETRY_AFTER_S * factor for factor in (1, 2, 4, 8)] + [MAX_RETRY_AFTER_S] * 2
    failures.is_over(MODEL)
    failures.give_up(MODEL, state, is_permanent=True)
    clock.now_s += 1e6
    assert failures.retry_reason(MODEL, state, is_pinned=True) is None


def test_another_leader_and_other_nodes_are_a_reason_to_try_again():
    failures = Failures(Clock())
    assert failures.retry_reason(MODEL, three(), is_pinned=False) == "the nodes changed"
    failures.give_up(MODEL, three(), is_permanent=True)
    assert failures.retry_reason(MODEL, cluster(node("a")), is_pinned=False) == "the nodes changed"
    cut = three(unreached=CUT)
    assert failures.retry_reason(MODEL, cut, is_pinned=False) is None
    failures.give_up(MODEL, cut, is_permanent=True)
    assert failures.retry_reason(MODEL, three(), is_pinned=False) == "a link works again"


def test_a_worker_that_cannot_start_twice_in_the_same_way_is_not_started_a_third_time():
    clock = Clock()
    failures = Failures(clock)
    assert not failures.is_too_often(MODEL, "out of address space", "worker_cannot_start")
    clock.now_s += 1
    assert not failures.is_too_often(MODEL, "no such file", "worker_cannot_start")
    clock.now_s += 1
    assert failures.is_too_often(MODEL, "no such file", "worker_cannot_start")
    failures.is_over(MODEL)
    for _ in range(5):
        assert not failures.is_too_often(MODEL, "killed by signal 9", "worker_failed")


@pytest.mark.parametrize(("reason", "cause"), [("node-c is lost", "node_lost"), (None, "model_does_not_fit")])
async def test_what_does_not_fit_any_more_because_a_node_is_lost_says_to_start_it_again(reason: str | None, cause: str):
    """And what did not fit before still says so."""
    failed = replace(instance(*PARTS, state="failed", reason="short by"), cause="model_does_not_fit")
    state = three(placed=instance(*PARTS) if reason else failed, limit=TIGHT_BYTES)
    gone = replace(state.members[C], state="dead")
    subject, seen = leader(replace(state, members={**state.members, C: gone}))
    running = asyncio.create_task(subject.run())
    try:
        await until(lambda: "short by" in (_only(seen).reason or "") and _only(seen).dot.number > 0, "given up")
    finally:
        running.cancel()
        await asyncio.wait({running})
    assert (_only(seen).state, _only(seen).cause) == ("failed", cause)
    assert (_only(seen).reason or "").startswith(reason or "the nodes changed")
