"""Requests that wait for a model, on a cluster that a test plays."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from exo_lite.domain.cluster_events import PlacementSeen
from exo_lite.domain.errors import ModelDoesNotFit, NotReady
from exo_lite.domain.ids import Epoch, NodeId
from exo_lite.domain.keep_alive import FOR_EVER
from exo_lite.domain.load_options import LoadRequest
from exo_lite.domain.placement import Instance, Placement
from exo_lite.node.cluster import Cluster
from exo_lite.node.demand import Demand
from tests.unit.node.cluster_states import FIRST, MODEL, SECOND, cluster, instance, node, part, shard_status, two_nodes
from tests.waiting import until

NEW = Epoch(6)
PLACED = replace(instance(FIRST, SECOND, state="loading"), epoch=NEW, keep_alive_s=300.0)


class Leader:
    """Answers every order with PLACED. What becomes of the model, the test says."""

    def __init__(self, *instances: Instance, patience_s: float = 60.0) -> None:
        self.cluster = Cluster(cluster(node("a"), [], *instances))
        self.orders: list[LoadRequest] = []
        self.refusal: ModelDoesNotFit | None = None
        self.demand = Demand(self.cluster, self.place, keep_alive_s=120.0, patience_s=patience_s)

    async def place(self, model_id: str, request: LoadRequest) -> Instance:
        self.orders.append(request)
        if self.refusal is not None:
            raise self.refusal
        return PLACED

    def publish(self, *instances: Instance, epoch: int = NEW) -> None:
        old = self.cluster.state.written
        revision = old.revision + 1 if old.epoch == epoch else 0
        self.cluster.apply(PlacementSeen(Placement(NodeId("a"), Epoch(epoch), revision, instances)))


async def test_a_ready_model_is_not_waited_for():
    there = instance(FIRST, SECOND)
    leader = Leader(there)
    assert await leader.demand.ready(MODEL) == there
    assert leader.orders == []


async def test_one_that_has_lost_a_node_is_waited_for_until_it_is_placed_again():
    leader = Leader()
    leader.cluster.state = two_nodes(shard_status(FIRST), shard_status(SECOND), second_state="dead")
    waiting = asyncio.create_task(leader.demand.ready(MODEL))
    await asyncio.sleep(0)
    assert not waiting.done()
    anew = replace(instance(part("a", 0, 3)), epoch=NEW)
    leader.publish(anew)
    assert await waiting == anew
    assert leader.orders == []


async def test_one_that_is_not_there_is_asked_for_and_waited_for():
    leader = Leader()
    waiting = asyncio.create_task(leader.demand.ready(MODEL))
    await until(lambda: bool(leader.orders), "the order")
    assert leader.orders == [LoadRequest(keep_alive_s=120.0, is_on_demand=True)]
    for state in ("loading", "warming"):
        leader.publish(replace(PLACED, state=state))
        await asyncio.sleep(0)
        assert not waiting.done()
    ready = replace(PLACED, state="ready")
    leader.publish(ready)
    assert await waiting == ready


async def test_requests_that_come_while_it_loads_wait_for_the_same_load():
    leader = Leader(PLACED)
    waiting = [asyncio.create_task(leader.demand.ready(MODEL)) for _ in range(5)]
    await asyncio.sleep(0)
    leader.publish(replace(PLACED, state="ready"))
    assert [one.epoch for one in await asyncio.gather(*waiting)] == [NEW] * 5
    assert leader.orders == []


async def test_a_failed_model_is_tried_again():
    leader = Leader(instance(FIRST, SECOND, state="failed", reason="long ago"))
    waiting = asyncio.create_task(leader.demand.ready(MODEL))
    await until(lambda: bool(leader.orders), "the order")
    assert not waiting.done()
    leader.publish(replace(PLACED, state="failed", reason="node-b: damaged"))
    with pytest.raises(NotReady, match="node-b: damaged"):
        await waiting


async def test_one_that_is_unloaded_meanwhile_says_so():
    leader = Leader(PLACED)
    waiting = asyncio.create_task(leader.demand.ready(MODEL))
    await asyncio.sleep(0)
    leader.publish(epoch=NEW + 1)
    with pytest.raises(NotReady, match="tiny was unloaded before it was ready"):
        await waiting


async def test_patience_ends_with_how_far_it_came():
    leader = Leader(PLACED, patience_s=0.0)
    with pytest.raises(NotReady, match="tiny is loading, 0% of its layers are in memory, after 0 s: try again later"):
        await leader.demand.ready(MODEL)


async def test_what_the_leader_refuses_reaches_the_request():
    leader = Leader()
    leader.refusal = ModelDoesNotFit("short by 2 GiB")
    with pytest.raises(ModelDoesNotFit, match="short by 2 GiB"):
        await leader.demand.ready(MODEL)


@pytest.mark.parametrize(
    ("is_kept_s", "asked_s", "is_told"),
    [(300.0, None, False), (300.0, 300.0, False), (300.0, 0.0, True), (300.0, FOR_EVER, True), (FOR_EVER, 0.0, False)],
)
async def test_another_keep_alive_is_told_to_the_leader_unless_the_model_is_pinned(
    is_kept_s: float, asked_s: float | None, is_told: bool
):
    leader = Leader(replace(instance(FIRST, SECOND), keep_alive_s=is_kept_s))
    await leader.demand.ready(MODEL, asked_s)
    assert leader.orders == ([LoadRequest(keep_alive_s=asked_s, is_on_demand=True)] if is_told else [])
