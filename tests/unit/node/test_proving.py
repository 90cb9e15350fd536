"""How an instance is proven: its workers are joined, the last stage's first, and a token goes through."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import pytest

from exo_lite.domain.errors import DeadlineExceeded, NodeLost, NotReady
from exo_lite.domain.ids import NodeId
from exo_lite.domain.pipeline import ConnectOrder, Endpoint
from exo_lite.domain.placement import Instance
from exo_lite.domain.request import GenerateRequest, Token
from exo_lite.node import proving
from exo_lite.node.cluster import Cluster
from exo_lite.node.proving import Prover, connect_orders
from tests.unit.node.cluster_states import (
    EPOCH,
    FIRST,
    MODEL,
    SECOND,
    both_ready,
    cluster,
    instance,
    member,
    node,
    part,
    shard_status,
)

PLACED = instance(FIRST, SECOND, state="warming")


class Workers:
    """Takes orders, and answers with so many tokens. `refusal` is what the first order meets."""

    def __init__(self, *, num_tokens: int = 1, refusal: Exception | None = None) -> None:
        self.joined: list[NodeId] = []
        self.requests: list[GenerateRequest] = []
        self._num_tokens = num_tokens
        self._refusal = refusal

    async def join(self, node_id: NodeId, order: ConnectOrder) -> None:
        if self._refusal is not None:
            raise self._refusal
        self.joined.append(node_id)

    async def generate(self, placed: Instance, request: GenerateRequest) -> AsyncGenerator[Token, None]:
        self.requests.append(request)
        for index in range(self._num_tokens):
            yield Token(index, 7)

    def prover(self) -> Prover:
        return Prover(Cluster(both_ready(state="warming")), self.join, self.generate)


async def test_every_worker_is_joined_before_the_token_is_sent():
    workers = Workers()
    await workers.prover().prove(PLACED)
    assert workers.joined == ["b", "a"]
    assert [(one.model_id, one.epoch) for one in workers.requests] == [(MODEL, EPOCH)]


async def test_what_a_worker_refuses_is_raised_and_no_token_is_sent():
    workers = Workers(refusal=NotReady("still loading"))
    with pytest.raises(NotReady, match="still loading"):
        await workers.prover().prove(PLACED)
    assert workers.requests == []


async def test_an_answer_without_a_token_is_no_proof():
    with pytest.raises(NodeLost, match="node-a ended the answer without a token"):
        await Workers(num_tokens=0).prover().prove(PLACED)


async def test_a_token_that_does_not_come_is_waited_for_only_so_long(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(proving, "WARM_UP_TIMEOUT_S", 0.0)

    async def join_for_ever(node_id: NodeId, order: ConnectOrder) -> None:
        await asyncio.Event().wait()

    prover = Prover(Cluster(both_ready(state="warming")), join_for_ever, Workers().generate)
    with pytest.raises(DeadlineExceeded, match="no token has passed through all nodes within 0 s"):
        await prover.prove(PLACED)


def test_orders_go_to_the_last_stage_first_and_name_the_neighbours():
    state = both_ready()
    first, second = Endpoint("node-a", ":17", NodeId("a")), Endpoint("node-b", ":16", NodeId("b"))
    assert connect_orders(state, instance(FIRST, SECOND)) == [
        ("b", ConnectOrder(MODEL, EPOCH, 1, 2, previous=first, tail=None, next_name="node-a")),
        ("a", ConnectOrder(MODEL, EPOCH, 0, 2, previous=None, tail=second, next_name="node-b")),
    ]


def test_each_stage_knows_the_one_before_and_a_single_one_knows_nobody():
    parts = (part("a", 0, 0), part("b", 1, 2), part("c", 3, 3))
    others = [member(node("b", shard_status(parts[1]))), member(node("c", shard_status(parts[2])))]
    three = cluster(node("a", shard_status(parts[0])), others, instance(*parts))
    orders = [order for _, order in connect_orders(three, instance(*parts))]
    names = [
        (order.stage, *(endpoint and endpoint.name for endpoint in (order.previous, order.tail)), order.next_name)
        for order in orders
    ]
    assert names == [(2, "node-b", None, "node-a"), (1, "node-a", None, "node-c"), (0, None, "node-c", "node-b")]
    alone = part("a", 0, 3)
    [(_, order)] = connect_orders(cluster(node("a", shard_status(alone)), [], instance(alone)), instance(alone))
    assert (order.num_stages, order.previous, order.tail) == (1, None, None)
