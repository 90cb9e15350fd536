"""Attempts under way at one node: read as they are asked for, relayed, and ended when what they stand on is lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import replace

import pytest

from exo_lite.domain.cluster_events import PlacementSeen
from exo_lite.domain.cluster_state import ClusterState
from exo_lite.domain.errors import NodeLost, NotReady, QueueFull, StaleEpoch
from exo_lite.domain.ids import Epoch, NodeId, RequestId
from exo_lite.domain.placement import Instance
from exo_lite.domain.request import AnswerRequest, GenerateRequest, Sampling, Token
from exo_lite.node.attempts import MAX_RELAYS, Attempts
from exo_lite.node.cluster import Cluster
from exo_lite.node.drivers import Drivers
from exo_lite.transport.node_server import serve_node
from exo_lite.transport.worker_server import serve_worker
from tests.loopback import PEERS, handlers_of
from tests.unit.node.cluster_states import (
    EPOCH,
    MODEL,
    both_ready,
    cluster,
    instance,
    member,
    node,
    part,
    shard_status,
)
from tests.unit.node.conftest import attempts_of
from tests.unit.node.peers_in_memory import Generate, peers_with
from tests.waiting import until


def request(num_tokens: int = 2) -> GenerateRequest:
    return GenerateRequest(RequestId("r"), MODEL, EPOCH, 0, AnswerRequest((1,), num_tokens, Sampling()))


def placed(state: ClusterState) -> Instance:
    [only] = state.written.instances
    return only


async def never(request: GenerateRequest) -> AsyncGenerator[Token, None]:
    await asyncio.Event().wait()
    yield Token(0, 0)


@asynccontextmanager
async def running(seen: Cluster, generate: Generate) -> AsyncIterator[Attempts]:
    """Attempts over drivers in memory, with the watch over losses."""
    _, peers = peers_with(generate)
    attempts = Attempts(seen, peers, Drivers(seen, peers))
    watching = asyncio.create_task(attempts.run())
    try:
        yield attempts
    finally:
        watching.cancel()
        with suppress(asyncio.CancelledError):
            await watching


def unloaded(state: ClusterState) -> PlacementSeen:
    return PlacementSeen(replace(state.written, revision=state.written.revision + 1, instances=()))


async def test_tokens_that_nobody_asks_for_wait_with_the_driver() -> None:
    num_made = 0

    async def quick(request: GenerateRequest) -> AsyncGenerator[Token, None]:
        nonlocal num_made
        for index in range(1000):
            num_made += 1
            yield Token(index, index, finish_reason="length" if index == 999 else None)

    state = both_ready()
    async with running(Cluster(state), quick) as attempts, attempts.begin(placed(state), request(1000)) as attempt:
        seen = [await attempt.next()]
        assert num_made == 1
        while (token := await attempt.next()) is not None:
            seen.append(token)
    assert [token.index for token in seen if token] == list(range(1000))


async def test_an_attempt_that_waits_ends_when_the_cluster_knows_of_a_loss() -> None:
    seen = Cluster(both_ready())
    async with running(seen, never) as attempts, attempts.begin(placed(seen.state), request()) as attempt:
        waiting = asyncio.ensure_future(attempt.next())
        await until(lambda: attempt._reading is not None, "the attempt waits for a token")
        seen.apply(unloaded(seen.state))
        with pytest.raises(NodeLost, match="tiny was unloaded"):
            await asyncio.wait_for(waiting, 10)
        with pytest.raises(NodeLost, match="tiny was unloaded"):
            await attempt.next()


async def test_an_attempt_whose_client_reads_slowly_ends_too() -> None:
    async def one_by_one(request: GenerateRequest) -> AsyncGenerator[Token, None]:
        for index in range(9):
            yield Token(index, index)

    seen = Cluster(both_ready())
    async with running(seen, one_by_one) as attempts, attempts.begin(placed(seen.state), request(9)) as attempt:
        assert await attempt.next() == Token(0, 0)
        seen.apply(unloaded(seen.state))
        await until(lambda: attempt._loss is not None, "the loss is known")
        with pytest.raises(NodeLost, match="tiny was unloaded"):
            await attempt.next()


async def test_what_the_cluster_knows_of_a_loss_counts_more_than_what_the_stream_says() -> None:
    seen = Cluster(both_ready())

    async def broken(request: GenerateRequest) -> AsyncGenerator[Token, None]:
        for token in list[Token]():
            yield token
        seen.apply(unloaded(seen.state))
        raise NodeLost("node-a closed the connection")

    attempts = Attempts(seen, peers_with(broken)[1], Drivers(seen, peers_with(broken)[1]))
    with pytest.raises(NodeLost, match="tiny was unloaded"):
        await anext(attempts.tokens(placed(seen.state), request()))


async def test_advice_of_the_driver_is_passed_on_whatever_the_cluster_knows() -> None:
    seen = Cluster(both_ready())

    async def full(request: GenerateRequest) -> AsyncGenerator[Token, None]:
        for token in list[Token]():
            yield token
        seen.apply(unloaded(seen.state))
        raise QueueFull("try again later")

    peers = peers_with(full)[1]
    with pytest.raises(QueueFull, match="try again later"):
        await anext(Attempts(seen, peers, Drivers(seen, peers)).tokens(placed(seen.state), request()))


async def test_nothing_is_sent_to_an_instance_that_is_lost() -> None:
    seen = Cluster(both_ready())
    old = placed(seen.state)
    seen.apply(unloaded(seen.state))
    memory, peers = peers_with(never)
    with pytest.raises(NodeLost, match="tiny was unloaded"):
        await anext(Attempts(seen, peers, Drivers(seen, peers)).tokens(old, request()))
    assert memory.asked == []


class SilentDriver:
    def __init__(self) -> None:
        self.has_request = asyncio.Event()

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Token, None]:
        self.has_request.set()
        await asyncio.Event().wait()
        yield Token(0, 0)


async def test_a_way_to_the_driver_that_closes_ends_the_answer_with_the_cause() -> None:
    driver, server, state = SilentDriver(), PEERS.node_server(), both_ready()
    serve_worker(server, driver)  # type: ignore[arg-type]  # nothing else of a worker is asked for
    port = PEERS.bind(server, "127.0.0.1", 0)
    await server.start()
    [shard] = state.self_status.shards
    own = replace(state.self_status, shards=(replace(shard, worker_port=port),))
    seen = Cluster(replace(state, self_status=own))
    drivers = Drivers(seen, PEERS)
    answer = asyncio.ensure_future(anext(Attempts(seen, PEERS, drivers).tokens(placed(state), request(1))))
    try:
        await asyncio.wait_for(driver.has_request.wait(), 10)
        await drivers.close()
        with pytest.raises(NodeLost, match=r"node-a .* the connection to it was closed"):
            await asyncio.wait_for(answer, 10)
    finally:
        await server.stop(grace=None)


class Between:
    """A daemon that reaches the driver and answers for it."""

    num_relays = 0

    async def relay(self, request: GenerateRequest, num_relays: int) -> AsyncGenerator[Token, None]:
        self.num_relays = num_relays
        yield Token(0, 7)
        yield Token(1, 8, finish_reason="stop")


async def test_a_request_whose_driver_is_out_of_reach_goes_through_a_node_between() -> None:
    between, server = Between(), PEERS.node_server()
    serve_node(server, handlers_of(between))
    address = f"127.0.0.1:{PEERS.bind(server, '127.0.0.1', 0)}"
    await server.start()
    first, entry = part("c", 0, 3), node("a")
    b = node("b")
    state = cluster(
        replace(entry, unreached=(NodeId("c"),)),
        [
            member(replace(b, identity=replace(b.identity, addresses=(address,)))),
            member(node("c", shard_status(first)), "suspect"),
        ],
        instance(first),
    )
    attempts = attempts_of(Cluster(state))
    try:
        async with aclosing(attempts.tokens(instance(first), request())) as tokens:
            assert [token.token_id async for token in tokens] == [7, 8]
        assert between.num_relays == 1
        with pytest.raises(NodeLost, match="node-c, the first node of tiny, is out of reach"):
            await anext(attempts.tokens(instance(first), request(), num_relays=MAX_RELAYS))
        with pytest.raises(StaleEpoch, match="epoch 5, not 4"):
            attempts.relay(replace(request(), epoch=Epoch(4)), 1)
    finally:
        await server.stop(grace=None)


async def test_a_request_for_a_model_that_is_not_loaded_is_not_relayed() -> None:
    with pytest.raises(NotReady, match="tiny is not loaded any more"):
        attempts_of(Cluster(cluster(node("a")))).relay(request(), 1)


async def test_no_attempt_is_watched_after_its_end() -> None:
    async def brief(request: GenerateRequest) -> AsyncGenerator[Token, None]:
        yield Token(0, 1, "stop")

    seen = Cluster(both_ready())
    async with running(seen, brief) as attempts:
        async with aclosing(attempts.tokens(placed(seen.state), request())) as tokens:
            assert [token.token_id async for token in tokens] == [1]
        assert attempts._open == set()
