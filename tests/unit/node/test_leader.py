"""The leader's orders: place, keep, make room."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from exo_lite.domain.clock import Clock
from exo_lite.domain.cluster_events import SelfChanged
from exo_lite.domain.cluster_state import ClusterState
from exo_lite.domain.errors import ModelDoesNotFit, ModelNotFound
from exo_lite.domain.healing import MAX_UNLOADED
from exo_lite.domain.ids import ModelId
from exo_lite.domain.keep_alive import FOR_EVER
from exo_lite.domain.load_options import LoadRequest
from exo_lite.domain.placement import Instance, InstanceState, ModelDescription
from exo_lite.node.cluster import Cluster
from exo_lite.node.failures import MAX_WORKER_FAILURES, SAME_FAILURE_S
from exo_lite.node.leader import Leader
from exo_lite.node.supervisor import Supervisor
from tests.loopback import CLOCK
from tests.set_clock import SetClock
from tests.unit.node.cluster_states import (
    EPOCH,
    FINGERPRINT,
    LIMIT_BYTES,
    MODEL,
    SPEC,
    cluster,
    driven,
    instance,
    node,
    part,
    shard_status,
)
from tests.unit.node.conftest import prove_nothing
from tests.waiting import until

TINY = ModelDescription(MODEL, FINGERPRINT, SPEC)
OTHER = ModelId("other")
ROOMY_BYTES = 400_000
"""Room for `tiny`, and for the `other` beside it only if that is a small one."""
LOAD = LoadRequest(context_length=64)
ON_DEMAND = LoadRequest(context_length=64, keep_alive_s=60.0, is_on_demand=True)


def leader(state: ClusterState, clock: Clock = CLOCK) -> tuple[Leader, Cluster]:
    seen = Cluster(state)
    return Leader(seen, prove_nothing, clock, Supervisor(clock)), seen


def instances(seen: Cluster) -> dict[str, Instance]:
    return {one.model_id: one for one in seen.state.written.instances}


def with_other(
    weight_bytes: int, *, limit_bytes: int = ROOMY_BYTES, keep_alive_s: float = 300.0, model_id: ModelId = OTHER
) -> ClusterState:
    """A cluster of node a, with one idle model."""
    held = replace(part("a", 0, 3, model_id), weight_bytes=weight_bytes)
    there = replace(instance(held, model_id=model_id), keep_alive_s=keep_alive_s)
    return cluster(node("a", driven(shard_status(held), idle_s=10.0), limit_bytes=limit_bytes), [], there)


def test_somebody_who_loads_a_model_pins_it_and_a_request_does_not():
    for request, keep_alive_s, reason in ((LOAD, FOR_EVER, None), (ON_DEMAND, 60.0, "a request asked for it")):
        subject, seen = leader(cluster(node("a", limit_bytes=ROOMY_BYTES)))
        placed = subject.place(TINY, request)
        assert (placed.keep_alive_s, placed.reason, placed.state) == (keep_alive_s, reason, "loading")
        assert instances(seen) == {MODEL: placed}


def test_a_model_beside_another_leaves_that_one_as_it_is():
    subject, seen = leader(with_other(100))
    before = instances(seen)[OTHER]
    placed = subject.place(TINY, ON_DEMAND)
    assert placed.epoch == EPOCH + 1
    assert instances(seen) == {OTHER: before, MODEL: placed}


def test_an_idle_model_is_evicted_in_the_same_placement_and_it_is_said_why():
    subject, seen = leader(with_other(300_000))
    placed = subject.place(TINY, ON_DEMAND)
    assert instances(seen) == {MODEL: placed}
    [gone] = seen.state.written.unloaded
    assert (gone.model_id, gone.epoch) == (OTHER, placed.epoch)
    assert gone.text == "other was evicted to make room for tiny"


@pytest.mark.parametrize(("limit_bytes", "keep_alive_s"), [(ROOMY_BYTES, FOR_EVER), (LIMIT_BYTES, 300.0)])
def test_nothing_is_evicted_in_vain(limit_bytes: int, keep_alive_s: float):
    subject, seen = leader(with_other(300_000, limit_bytes=limit_bytes, keep_alive_s=keep_alive_s))
    before = seen.state
    with pytest.raises(ModelDoesNotFit, match="short by"):
        subject.place(TINY, ON_DEMAND)
    assert seen.state is before


@pytest.mark.parametrize("state", ["loading", "warming", "ready"])
def test_a_request_takes_what_is_placed_whatever_its_options(state: InstanceState):
    there = replace(instance(part("a", 0, 3), state=state), keep_alive_s=300.0)
    subject, seen = leader(cluster(node("a", limit_bytes=ROOMY_BYTES), [], there))
    kept = subject.place(TINY, replace(ON_DEMAND, quant="int8"))
    assert kept == replace(there, keep_alive_s=60.0)
    assert instances(seen) == {MODEL: kept}
    assert seen.state.epoch == EPOCH


def test_a_request_unpins_nothing_and_somebody_who_loads_it_may():
    there = instance(part("a", 0, 3))
    subject, seen = leader(cluster(node("a", limit_bytes=ROOMY_BYTES), [], there))
    assert subject.place(TINY, ON_DEMAND) == there
    assert subject.place(TINY, LOAD) == there
    assert subject.place(TINY, replace(LOAD, keep_alive_s=5.0)) == replace(there, keep_alive_s=5.0)
    assert subject.place(TINY, replace(ON_DEMAND, keep_alive_s=FOR_EVER)) == there
    assert seen.state.epoch == EPOCH


def test_a_request_tries_a_failed_model_again_as_it_was_asked_for():
    failed = instance(part("a", 0, 3), state="failed", reason="damaged")
    subject, _ = leader(cluster(node("a", limit_bytes=ROOMY_BYTES), [], failed))
    again = subject.place(TINY, replace(ON_DEMAND, quant="int8"))
    assert (again.state, again.epoch, again.options, again.is_pinned) == ("loading", EPOCH + 1, failed.options, True)


def test_unloading_is_said_and_the_list_of_unloaded_models_stays_short():
    subject, seen = leader(cluster(node("a", limit_bytes=ROOMY_BYTES)))
    for _ in range(MAX_UNLOADED + 2):
        subject.place(TINY, LOAD)
        subject.unplace(MODEL)
    assert [one.text for one in seen.state.written.unloaded] == ["tiny was unloaded"] * MAX_UNLOADED
    with pytest.raises(ModelNotFound):
        subject.unplace(MODEL)


async def test_failures_that_come_together_are_one_and_the_third_is_the_last():
    clock = SetClock(1000.0)
    broken = shard_status(part("a", 0, 3), "lost", worker_port=None, error="killed by signal 9")
    state = cluster(node("a", limit_bytes=ROOMY_BYTES), [], instance(part("a", 0, 3)))
    subject, seen = leader(state, clock)
    running = asyncio.create_task(subject.run())

    async def fail() -> Instance:
        """The worker of the placement as it is now is gone; what the leader makes of it."""
        before = instances(seen)[MODEL]
        status = replace(node("a", limit_bytes=ROOMY_BYTES), shards=(replace(broken, placed_epoch=before.epoch),))
        seen.apply(SelfChanged(status))
        await until(lambda: instances(seen)[MODEL] != before, "the leader has acted")
        return instances(seen)[MODEL]

    try:
        for _ in range(MAX_WORKER_FAILURES - 1):
            clock.now_s += 2 * SAME_FAILURE_S
            for _ in range(3):
                clock.now_s += SAME_FAILURE_S / 4
                placed = await fail()
                assert (placed.state, placed.reason) == ("loading", "killed by signal 9")
        clock.now_s += 2 * SAME_FAILURE_S
        given_up = await fail()
    finally:
        running.cancel()
        await asyncio.wait({running})
    assert given_up.state == "failed"
    assert given_up.reason == "it failed repeatedly, the last time: killed by signal 9"
