"""Idle models are evicted for another one. Node a offers two and a half times what `tiny` takes."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exo_lite.domain.cluster_state import ClusterState
from exo_lite.domain.ids import ModelId
from exo_lite.domain.load_options import LoadOptions
from exo_lite.domain.placement import InstanceState, ModelDescription
from exo_lite.domain.plan import Refusal
from exo_lite.domain.shard import Shard
from exo_lite.node.eviction import PlanWithEvictions, plan_with_evictions
from tests.planned import shard_bytes
from tests.unit.node.cluster_states import (
    FINGERPRINT,
    MODEL,
    N_LAYERS,
    SPEC,
    cluster,
    driven,
    instance,
    member,
    node,
    part,
    shard_status,
)

TINY = ModelDescription(MODEL, FINGERPRINT, SPEC)
OPTIONS = LoadOptions("float32", context_length=64)
NEEDED = shard_bytes(SPEC, Shard(MODEL, 0, N_LAYERS - 1, N_LAYERS), OPTIONS).memory_bytes


def held(
    *models: tuple[str, float, float | None],
    limit: float = 2.5,
    keep_alive_s: float = 300.0,
    state: InstanceState = "ready",
) -> ClusterState:
    """Each model with its name, its size in what `tiny` takes, and how long it is idle; None: it has requests."""
    parts = [
        replace(part("a", 0, N_LAYERS - 1, ModelId(name)), weight_bytes=int(size * NEEDED)) for name, size, _ in models
    ]
    statuses = [
        driven(shard_status(one), idle_s=idle_s or 0.0) for one, (_, _, idle_s) in zip(parts, models, strict=True)
    ]
    asked = {ModelId(name): 1 for name, _, idle_s in models if idle_s is None}
    instances = [
        replace(instance(one, state=state, model_id=one.shard.model_id), keep_alive_s=keep_alive_s) for one in parts
    ]
    this = replace(node("a", *statuses, limit_bytes=int(limit * NEEDED)), num_requests=asked)
    return cluster(this, [], *instances)


def leaving(state: ClusterState) -> tuple[str, ...]:
    found = plan_with_evictions(state, TINY, OPTIONS)
    assert isinstance(found, PlanWithEvictions), found.reason
    return tuple(one.model_id for one in found.evicted)


def refusal(state: ClusterState) -> str:
    found = plan_with_evictions(state, TINY, OPTIONS)
    assert isinstance(found, Refusal)
    return found.reason


def test_none_is_evicted_where_there_is_room():
    assert leaving(held(("x", 0.5, 100.0), ("y", 0.5, 200.0))) == ()
    assert leaving(ClusterState(node("a", limit_bytes=int(2.5 * NEEDED)))) == ()


def test_the_least_recently_used_is_evicted_first():
    assert leaving(held(("x", 1, 100.0), ("y", 1, 200.0))) == ("y",)
    assert leaving(held(("x", 1, 200.0), ("y", 1, 100.0))) == ("x",)


def test_as_few_leave_as_are_needed():
    assert leaving(held(("x", 0.3, 300.0), ("y", 1.5, 200.0), ("z", 0.3, 100.0))) == ("y",)
    assert leaving(held(("x", 0.6, 300.0), ("y", 0.6, 200.0), ("z", 0.6, 100.0))) == ("x",)
    assert leaving(held(("x", 0.8, 300.0), ("y", 0.8, 200.0), ("z", 0.8, 100.0), limit=2.7)) == ("x",)
    assert leaving(held(("x", 0.5, 300.0), ("y", 0.5, 200.0), ("z", 0.5, 100.0), limit=1.6)) == ("x", "y")


def test_one_with_requests_is_never_evicted():
    assert leaving(held(("x", 1, None), ("y", 1, 1.0))) == ("y",)
    assert "x stays loaded: it has requests." in refusal(held(("x", 2, None)))


def test_nor_one_that_somebody_has_just_asked_for_elsewhere():
    state = held(("x", 2, 100.0))
    asked = member(replace(node("b", models={}), num_requests={ModelId("x"): 1}))
    assert "x stays loaded: it has requests." in refusal(replace(state, members={asked.status.identity.node_id: asked}))


def test_nor_a_pinned_one():
    pinned = held(("x", 2, 1000.0), keep_alive_s=float("inf"))
    assert "x is pinned and stays loaded: `exo-lite unload x` frees its memory." in refusal(pinned)


@pytest.mark.parametrize("state", ["loading", "warming"])
def test_nor_one_that_is_on_its_way(state: InstanceState):
    assert f"x stays loaded: it is {state}." in refusal(held(("x", 2, 100.0), state=state))


def test_a_failed_one_takes_no_room():
    assert leaving(held(("x", 2, 100.0), state="failed")) == ()


def test_where_all_of_them_would_not_be_enough_none_is_evicted_and_the_arithmetic_counts_them():
    reason = refusal(held(("x", 0.3, 100.0), limit=0.9))
    assert reason.startswith("tiny needs ")
    assert "short by" in reason
    assert reason.endswith("This counts the memory of x, which is idle, as free.")


def test_the_model_itself_is_no_obstacle():
    assert leaving(held((MODEL, 2, None))) == ()


SIZES = st.floats(0.1, 1.5)
MODELS = st.lists(st.tuples(SIZES, st.none() | st.floats(0, 1000)), max_size=5)


@given(MODELS, st.floats(0.5, 3.0))
def test_whatever_is_evicted_is_idle_and_needed(models: list[tuple[float, float | None]], limit: float):
    named = [(f"m{index}", size, idle_s) for index, (size, idle_s) in enumerate(models)]
    found = plan_with_evictions(held(*named, limit=limit), TINY, OPTIONS)
    stuck = sum(size for _, size, idle_s in named if idle_s is None)
    if isinstance(found, Refusal):
        assert limit - stuck < 1.001
        return
    gone = [one.model_id for one in found.evicted]
    sizes = {name: size for name, size, _ in named}
    rest = sum(sizes.values()) - sum(sizes[one] for one in gone)
    assert {name for name, _, idle_s in named if idle_s is not None} >= set(gone)
    assert rest + 1 <= limit + 0.001
    assert all(rest + sizes[name] + 1 > limit - 0.001 for name in gone)


@pytest.mark.parametrize("models", [{}, {MODEL: "fedcba9876543210"}])
def test_where_only_the_files_are_missing_the_refusal_is_about_files_and_not_memory(models: dict[ModelId, str]):
    found = plan_with_evictions(
        cluster(node("a", models=models, limit_bytes=10**9), [member(node("b", models=models, limit_bytes=10**9))]),
        TINY,
        OPTIONS,
    )
    assert isinstance(found, Refusal)
    assert found.lacks_files
    assert found.reason.startswith("tiny would fit, if more nodes had its files: node-a ")
    assert "import" in found.reason
    assert "short by" not in found.reason
