"""The one place where the state changes, and the states that readers get of it."""

from __future__ import annotations

import asyncio

import pytest

from exo_lite.domain.cluster_events import MemberJoined
from exo_lite.domain.cluster_state import ClusterState
from exo_lite.domain.ids import NodeId
from exo_lite.node.cluster import Cluster
from tests.unit.node.cluster_states import node


def join(seen: Cluster, *node_ids: str) -> None:
    for node_id in node_ids:
        seen.apply(MemberJoined(node(node_id), 0.0))


async def test_the_state_comes_at_once_and_after_each_change():
    seen = Cluster(ClusterState(node("a")))
    states = seen.states()
    assert (await anext(states)).members == {}
    waiting = asyncio.ensure_future(anext(states))
    await asyncio.sleep(0)
    assert not waiting.done()
    join(seen, "b")
    assert list((await waiting).members) == ["b"]


async def test_a_change_while_one_is_busy_is_not_missed_and_several_are_one():
    seen = Cluster(ClusterState(node("a")))
    states = seen.states()
    await anext(states)
    join(seen, "b", "c")
    assert list((await asyncio.wait_for(anext(states), 10)).members) == ["b", "c"]
    waiting = asyncio.ensure_future(anext(states))
    await asyncio.sleep(0)
    assert not waiting.done()
    waiting.cancel()


async def test_the_state_comes_again_without_a_change_where_one_asks_for_that():
    seen = Cluster(ClusterState(node("a")))
    states = seen.states(at_least_every_s=0.0)
    assert await anext(states) is await anext(states)


async def test_waiting_ends_with_the_first_state_that_has_what_one_waits_for():
    seen = Cluster(ClusterState(node("a")))
    waiting = asyncio.ensure_future(seen.wait_for(lambda state: state.members.get(NodeId("c"))))
    join(seen, "b")
    await asyncio.sleep(0)
    assert not waiting.done()
    join(seen, "c")
    assert (await asyncio.wait_for(waiting, 10)).status.identity.node_id == "c"
    assert (await seen.wait_for(lambda state: state.members.get(NodeId("b")))) is seen.state.members[NodeId("b")]


async def test_what_the_condition_raises_ends_the_wait():
    def fail(state: ClusterState) -> None:
        raise ValueError("in the state")

    with pytest.raises(ValueError, match="in the state"):
        await Cluster(ClusterState(node("a"))).wait_for(fail)
