"""GET /readyz: only with a model whose hops were proven a moment ago."""

from __future__ import annotations

from dataclasses import replace

import pytest

from exo_lite.domain.cluster_state import ClusterState
from exo_lite.domain.ids import Epoch, ModelId
from exo_lite.node.http_face import PROOF_IS_FRESH_S
from tests.unit.node.cluster_states import (
    EPOCH,
    FIRST,
    SECOND,
    both_ready,
    cluster,
    driven,
    instance,
    node,
    part,
    shard_status,
    two_nodes,
)
from tests.unit.node.conftest import MakeService


def with_proof(state: ClusterState, proof_age_s: float | None, epoch: Epoch = EPOCH) -> ClusterState:
    [first] = state.self_status.shards
    proven = driven(replace(first, report=replace(first.report, joined_epoch=epoch)), proof_age_s=proof_age_s)
    return replace(state, self_status=replace(state.self_status, shards=(proven,)))


def test_a_model_with_a_fresh_proof_makes_it_ready(service_of: MakeService):
    for age_s in (0.0, PROOF_IS_FRESH_S):
        assert service_of(with_proof(both_ready(), age_s)).not_ready_reason() is None


@pytest.mark.parametrize("age_s", [None, PROOF_IS_FRESH_S + 0.1])
def test_an_old_proof_or_none_does_not(service_of: MakeService, age_s: float | None):
    reason = service_of(with_proof(both_ready(), age_s)).not_ready_reason()
    assert reason == "tiny: nothing has passed through all of its nodes for 10 s"


def test_a_proof_of_an_older_epoch_is_none(service_of: MakeService):
    stale = with_proof(both_ready(), 0.1, epoch=Epoch(EPOCH - 1))
    assert service_of(stale).not_ready_reason() is not None


@pytest.mark.parametrize("state", ["loading", "warming", "degraded", "failed"])
def test_a_model_that_is_not_ready_says_how_it_is(service_of: MakeService, state):
    reason = service_of(with_proof(both_ready(state=state), 0.1)).not_ready_reason()
    assert reason == f"tiny is {state}"


async def test_a_model_that_has_just_lost_a_node_is_degraded(service_of: MakeService):
    """However fresh its proof, and before the leader has placed it anew."""
    lost = two_nodes(shard_status(FIRST), shard_status(SECOND), second_state="dead")
    service = service_of(with_proof(lost, 0.1))
    assert service.not_ready_reason() == "tiny is degraded: node-b is lost"
    assert [one.state for one in await service.models()] == ["degraded"]


def test_the_reason_of_a_failure_is_told(service_of: MakeService):
    failed = instance(part("a", 0, 3), state="failed", reason="short by 2 GiB")
    assert service_of(cluster(node("a"), [], failed)).not_ready_reason() == "tiny is failed: short by 2 GiB"


def test_nothing_loaded_says_what_to_do(service_of: MakeService):
    for state in (cluster(node("a")), ClusterState(node("a"))):
        assert service_of(state).not_ready_reason() == "no model is loaded: `exo-lite load MODEL`"


def test_one_ready_model_is_enough(service_of: MakeService):
    alone, other = part("a", 0, 3), ModelId("other")
    proven = driven(shard_status(alone), proof_age_s=0.5)
    loading = instance(part("a", 0, 3, other), model_id=other, state="loading")
    assert service_of(cluster(node("a", proven), [], loading, instance(alone))).not_ready_reason() is None


def test_a_node_that_shuts_down_is_not_ready(service_of: MakeService):
    service = service_of(with_proof(both_ready(), 0.1))
    service.drain()
    assert service.not_ready_reason() == "this node is shutting down"
