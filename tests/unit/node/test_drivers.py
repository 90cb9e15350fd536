"""Channels to the drivers of instances, and what drivers tell."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import replace

import pytest

from exo_lite.domain.cluster_events import PlacementSeen
from exo_lite.domain.cluster_state import ClusterState
from exo_lite.domain.errors import NotReady
from exo_lite.domain.placement import Instance
from exo_lite.domain.request import GenerateRequest, Token
from exo_lite.node.cluster import Cluster
from exo_lite.node.drivers import Drivers
from tests.loopback import PEERS
from tests.unit.node.cluster_states import FIRST, MODEL, both_ready, cluster, node, shard_status, two_nodes
from tests.unit.node.peers_in_memory import peers_with


async def nothing(request: GenerateRequest) -> AsyncGenerator[Token, None]:
    for token in list[Token]():
        yield token


def placed(state: ClusterState) -> Instance:
    [only] = state.written.instances
    return only


async def test_traces_of_a_model_whose_driver_cannot_tell_are_none_with_the_reason() -> None:
    """Whoever looks at a model that is moving has asked for nothing wrong."""
    report = await Drivers(Cluster(two_nodes(state="loading")), PEERS).traces(MODEL)
    assert report.requests == ()
    assert report.reason == "the worker on node-a, the first node of tiny, has not started yet"

    gone = Drivers(Cluster(two_nodes(shard_status(FIRST, worker_port=1), state="degraded")), PEERS)
    try:
        report = await gone.traces(MODEL)
        assert report.requests == ()
        assert report.reason is not None
        assert "node-a (127.0.0.1:1) refuses connections: its process is gone" in report.reason
    finally:
        await gone.close()


async def test_a_model_that_is_not_loaded_has_no_traces() -> None:
    with pytest.raises(NotReady, match="tiny is not loaded any more"):
        await Drivers(Cluster(cluster(node("a"))), PEERS).traces(MODEL)


async def test_a_channel_is_used_again_and_closed_when_its_driver_is_gone() -> None:
    seen = Cluster(both_ready())
    memory, peers = peers_with(nothing)
    drivers = Drivers(seen, peers)
    for _ in range(2):
        with drivers.use(placed(seen.state)):
            pass
    await drivers.close_gone()
    assert [driver.is_closed for driver in memory.opened] == [False]
    seen.apply(PlacementSeen(replace(seen.state.written, revision=seen.state.written.revision + 1, instances=())))
    await drivers.close_gone()
    assert [driver.is_closed for driver in memory.opened] == [True]
    assert drivers.num_channels == 0


async def test_a_channel_stays_open_as_long_as_somebody_uses_it() -> None:
    seen = Cluster(both_ready())
    memory, peers = peers_with(nothing)
    drivers, old = Drivers(seen, peers), placed(seen.state)
    with drivers.use(old):
        seen.apply(PlacementSeen(replace(seen.state.written, revision=seen.state.written.revision + 1, instances=())))
        await drivers.close_gone()
        assert [driver.is_closed for driver in memory.opened] == [False]
    await drivers.close_gone()
    assert [driver.is_closed for driver in memory.opened] == [True]


async def test_every_channel_is_closed_in_the_end() -> None:
    seen = Cluster(both_ready())
    memory, peers = peers_with(nothing)
    drivers = Drivers(seen, peers)
    with drivers.use(placed(seen.state)):
        await drivers.close()
    assert [driver.is_closed for driver in memory.opened] == [True]
