"""Requests under way at their entry node, over real gRPC to a head that never answers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import replace

import pytest

from exo_lite.domain.errors import NodeLost, NotReady
from exo_lite.domain.ids import RequestId
from exo_lite.domain.request import GenerateRequest, Sampling, Token
from exo_lite.node.cluster import Cluster
from exo_lite.node.requests import Requests
from exo_lite.transport.channels import bind, create_server
from exo_lite.transport.worker_server import serve_worker
from tests.unit.node.cluster_states import EPOCH, FIRST, MODEL, both_ready, cluster, node, shard_status, two_nodes


class SilentHead:
    def __init__(self) -> None:
        self.has_request = asyncio.Event()

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Token, None]:
        self.has_request.set()
        await asyncio.Event().wait()
        yield Token(0, 0)


async def test_a_way_to_the_head_that_closes_ends_the_answer_with_the_cause() -> None:
    head, server, state = SilentHead(), create_server(), both_ready()
    serve_worker(server, head)  # type: ignore[arg-type]  # nothing else of a worker is asked for
    port = bind(server, "127.0.0.1", 0)
    await server.start()
    [shard] = state.self_status.shards
    own = replace(state.self_status, shards=(replace(shard, worker_port=port),))
    requests = Requests(Cluster(replace(state, self_status=own)))
    assert state.placement is not None
    [instance] = state.placement.instances
    request = GenerateRequest(RequestId("r"), instance.model_id, EPOCH, 0, (1,), 1, Sampling())
    answer = asyncio.ensure_future(anext(requests.generate_on(instance, request)))
    try:
        await asyncio.wait_for(head.has_request.wait(), 10)
        await requests.close()
        with pytest.raises(NodeLost, match=r"node-a .* the connection to it was closed"):
            await asyncio.wait_for(answer, 10)
    finally:
        await server.stop(grace=None)


async def test_traces_of_a_model_whose_head_cannot_tell_are_none_with_the_reason() -> None:
    """Whoever looks at a model that is moving has asked for nothing wrong."""
    requests = Requests(Cluster(two_nodes(state="loading")))
    report = await requests.traces(MODEL)
    assert report.requests == ()
    assert report.reason == "the worker on node-a, the head of tiny, is not there yet"

    gone = Requests(Cluster(two_nodes(shard_status(FIRST, worker_port=1), state="degraded")))
    try:
        report = await gone.traces(MODEL)
        assert report.requests == ()
        assert report.reason is not None
        assert "node-a (127.0.0.1:1) refuses connections: its process is gone" in report.reason
    finally:
        await gone.close()


async def test_a_model_that_is_not_loaded_has_no_traces() -> None:
    with pytest.raises(NotReady, match="tiny is not loaded any more"):
        await Requests(Cluster(cluster(node("a")))).traces(MODEL)
