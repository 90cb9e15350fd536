"""Requests under way at their entry node, over real gRPC to a head that never answers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace

import pytest

from exo_lite.domain.errors import InvalidRequest, NodeLost, NotReady, StaleEpoch
from exo_lite.domain.ids import Epoch, NodeId, RequestId
from exo_lite.domain.request import MAX_PROMPT_LOGPROBS, GenerateRequest, Sampling, Terms, Token
from exo_lite.node.cluster import Cluster
from exo_lite.node.requests import MAX_RELAYS, MAX_UNREAD_TOKENS, Requests
from exo_lite.transport.node_server import serve_node
from exo_lite.transport.worker_server import serve_worker
from tests.loopback import PEERS
from tests.unit.node.cluster_states import (
    EPOCH,
    FIRST,
    MODEL,
    both_ready,
    cluster,
    instance,
    member,
    node,
    part,
    shard_status,
    two_nodes,
)


async def test_more_scores_of_a_prompt_than_one_message_holds_are_refused() -> None:
    requests, terms = Requests(Cluster(both_ready()), PEERS), Terms()
    sampling = Sampling(logprobs=20, prompt_logprobs=True)
    answer = requests.generate(MODEL, [1] * (MAX_PROMPT_LOGPROBS // 21 + 1), 1, sampling, frozenset(), terms)
    with pytest.raises(InvalidRequest, match="log probabilities, more than") as refused:
        await anext(answer)
    assert refused.value.param == "logprobs"


class SilentHead:
    def __init__(self) -> None:
        self.has_request = asyncio.Event()

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Token, None]:
        self.has_request.set()
        await asyncio.Event().wait()
        yield Token(0, 0)


async def test_tokens_that_a_client_does_not_read_wait_with_the_head() -> None:
    num_made = 0

    class QuickHead:
        async def generate(self, request: GenerateRequest) -> AsyncGenerator[Token, None]:
            nonlocal num_made
            for index in range(1000):
                num_made += 1
                yield Token(index, index, finish_reason="length" if index == 999 else None)

    state = both_ready()
    [placed] = state.written.instances
    requests = Requests(Cluster(state), PEERS)
    requests._answer = lambda instance, request, num_relays: QuickHead().generate(request)  # type: ignore[method-assign]
    request = GenerateRequest(RequestId("r"), MODEL, EPOCH, 0, (1,), 1000, Sampling())
    async with aclosing(requests.generate_on(placed, request)) as tokens:
        seen = [(await anext(tokens)).index]
        for _ in range(10 * MAX_UNREAD_TOKENS):
            await asyncio.sleep(0)
        assert num_made <= MAX_UNREAD_TOKENS + 3
        seen += [token.index async for token in tokens]
    assert seen == list(range(1000))


async def test_a_way_to_the_head_that_closes_ends_the_answer_with_the_cause() -> None:
    head, server, state = SilentHead(), PEERS.node_server(), both_ready()
    serve_worker(server, head)  # type: ignore[arg-type]  # nothing else of a worker is asked for
    port = PEERS.bind(server, "127.0.0.1", 0)
    await server.start()
    [shard] = state.self_status.shards
    own = replace(state.self_status, shards=(replace(shard, worker_port=port),))
    requests = Requests(Cluster(replace(state, self_status=own)), PEERS)
    [instance] = state.written.instances
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
    requests = Requests(Cluster(two_nodes(state="loading")), PEERS)
    report = await requests.traces(MODEL)
    assert report.requests == ()
    assert report.reason == "the worker on node-a, the head of tiny, is not there yet"

    gone = Requests(Cluster(two_nodes(shard_status(FIRST, worker_port=1), state="degraded")), PEERS)
    try:
        report = await gone.traces(MODEL)
        assert report.requests == ()
        assert report.reason is not None
        assert "node-a (127.0.0.1:1) refuses connections: its process is gone" in report.reason
    finally:
        await gone.close()


async def test_a_model_that_is_not_loaded_has_no_traces() -> None:
    with pytest.raises(NotReady, match="tiny is not loaded any more"):
        await Requests(Cluster(cluster(node("a"))), PEERS).traces(MODEL)


class Between:
    """A daemon that reaches the head and answers for it."""

    num_relays = 0

    async def on_relay(self, request: GenerateRequest, num_relays: int) -> AsyncGenerator[Token, None]:
        self.num_relays = num_relays
        yield Token(0, 7)
        yield Token(1, 8, finish_reason="stop")


async def test_a_request_whose_head_is_out_of_reach_goes_through_a_node_between() -> None:
    between, server = Between(), PEERS.node_server()
    serve_node(server, between)  # type: ignore[arg-type]  # nothing else of a daemon is asked for
    address = f"127.0.0.1:{PEERS.bind(server, '127.0.0.1', 0)}"
    await server.start()
    head, entry = part("c", 0, 3), node("a")
    b = node("b")
    state = cluster(
        replace(entry, unreached=(NodeId("c"),)),
        [
            member(replace(b, identity=replace(b.identity, addresses=(address,)))),
            member(node("c", shard_status(head)), "suspect"),
        ],
        instance(head),
    )
    requests = Requests(Cluster(state), PEERS)
    request = GenerateRequest(RequestId("r"), MODEL, EPOCH, 0, (1,), 2, Sampling())
    try:
        tokens = [token.token_id async for token in requests.generate_on(instance(head), request)]
        assert (tokens, between.num_relays) == ([7, 8], 1)
        with pytest.raises(NodeLost, match="node-c, the head of tiny, is out of reach"):
            await anext(requests.generate_on(instance(head), request, num_relays=MAX_RELAYS))
        with pytest.raises(StaleEpoch, match="epoch 5, not 4"):
            await anext(requests.relay(replace(request, epoch=Epoch(4)), 1))
    finally:
        await requests.close()
        await server.stop(grace=None)
