"""An instance is exact where all its parts compute the same numbers; where they don't, everybody is told."""

from __future__ import annotations

from dataclasses import replace

import pytest

from exo_lite.domain.cluster_state import ClusterState
from exo_lite.domain.engine import NodeEngine
from exo_lite.domain.node import ShardStatus
from exo_lite.domain.plan import Assignment
from exo_lite.node.decisions import offers
from exo_lite.node.event_log import describe_change
from exo_lite.node.exactness import is_exact, mixture
from exo_lite.node.notes import notes
from exo_lite.node.proving import connect_orders
from exo_lite.node.state_document import state_document
from tests.unit.node.cluster_states import (
    FIRST,
    MODEL,
    SECOND,
    cluster,
    instance,
    member,
    node,
    shard_status,
    two_nodes,
)

KERNELS, FALLBACK = "torch-c/c", "torch-c/torch 2.13.0 AVX2"
PLACED = instance(FIRST, SECOND)


def computing(first: str | None, second: str | None) -> ClusterState:
    """Two nodes whose loaded parts compute these numbers."""
    return two_nodes(loaded(FIRST, first), loaded(SECOND, second), state="ready")


def loaded(part: Assignment, numerics: str | None) -> ShardStatus:
    status = shard_status(part)
    return replace(status, report=replace(status.report, numerics=numerics))


@pytest.mark.parametrize(
    ("first", "second", "exact"),
    [
        (KERNELS, KERNELS, True),
        (FALLBACK, FALLBACK, True),
        (KERNELS, FALLBACK, False),
        (KERNELS, None, False),
        (None, None, False),
    ],
)
def test_equal_numbers_on_all_parts_make_an_instance_exact(first: str | None, second: str | None, exact: bool):
    state = computing(first, second)
    assert is_exact(state, PLACED) is exact
    assert {order.is_exact for _, order in connect_orders(state, PLACED)} == {exact}
    [model] = state_document(state, [], now_s=11.0)["models"]
    assert (model["exact"], model["speculation"]["enabled"]) == (exact, exact)
    assert [shard["numerics"] for shard in model["shards"]] == [first, second]


def test_until_all_parts_are_loaded_it_is_neither_exact_nor_mixed():
    loading = shard_status(SECOND, "loading")
    state = two_nodes(loaded(FIRST, KERNELS), loading, state="loading")
    assert not is_exact(state, PLACED)
    assert mixture(state, PLACED) is None


def test_a_mixed_instance_says_so_where_people_look():
    state = computing(KERNELS, FALLBACK)
    [note] = notes(state)
    assert note.kind == "numerics_differ"
    assert f"node-a with {KERNELS}, node-b with {FALLBACK}" in note.text
    assert note.text.startswith("tiny is not exact")
    assert "C compiler" in note.fix
    assert (note.kind, note.text, note.fix) in list(describe_change(computing(KERNELS, KERNELS), state))
    assert state_document(state, [], now_s=11.0)["notes"] == [{"kind": note.kind, "text": note.text, "fix": note.fix}]


@pytest.mark.parametrize("numerics", [KERNELS, None])
def test_equal_parts_have_nothing_to_say(numerics: str | None):
    assert notes(computing(numerics, numerics)) == []


def test_a_node_of_an_engine_that_the_leader_does_not_know_offers_nothing_and_says_why():
    stranger = replace(node("b"), engine=NodeEngine("abacus"))
    own, other = offers(cluster(node("a"), [member(stranger)]), MODEL, None)
    assert (own.reason, own.engine) == (None, "torch-c")
    assert other.memory_bytes == 0
    assert "computes with abacus, which the leader does not know" in (other.reason or "")
