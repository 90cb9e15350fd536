"""The proof behind `ready`: an instance's workers are joined into a ring, and a real token goes through every hop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing

from exo_lite.domain.cluster_state import ClusterState
from exo_lite.domain.errors import DeadlineExceeded, NodeLost
from exo_lite.domain.ids import NodeId, RequestId
from exo_lite.domain.pipeline import ConnectOrder, Endpoint
from exo_lite.domain.placement import Instance
from exo_lite.domain.request import AnswerRequest, GenerateRequest, Sampling, Token
from exo_lite.domain.worker import MAX_STEP_S
from exo_lite.node.cluster import Cluster
from exo_lite.node.exactness import is_exact

WARM_UP_TIMEOUT_S = 2 * MAX_STEP_S
"""Whatever is lost or hangs is told of long before; slow stages are no reason to give up."""
WARM_UP_TOKENS = 32
"""The length of the prompt whose time tells how much of a prompt a step may carry."""

Join = Callable[[NodeId, ConnectOrder], Awaitable[None]]
Generate = Callable[[Instance, GenerateRequest], AsyncGenerator[Token, None]]


class Prover:
    def __init__(self, cluster: Cluster, join: Join, generate: Generate) -> None:
        self._cluster = cluster
        self._join = join
        self._generate = generate

    async def prove(self, instance: Instance) -> None:
        """Return once a token came through. Raises what keeps it from that, DeadlineExceeded in the end."""
        try:
            async with asyncio.timeout(WARM_UP_TIMEOUT_S):
                for node_id, order in connect_orders(self._cluster.state, instance):
                    await self._join(node_id, order)
                await self._send_token(instance)
        except TimeoutError as error:
            raise DeadlineExceeded(f"no token has passed through all nodes within {WARM_UP_TIMEOUT_S:.0f} s") from error

    async def _send_token(self, instance: Instance) -> None:
        num_tokens = max(1, min(WARM_UP_TOKENS, instance.options.context_length - 1))
        request = GenerateRequest(
            request_id=RequestId(f"warm-up-{instance.epoch}"),
            model_id=instance.model_id,
            epoch=instance.epoch,
            attempt=0,
            asked=AnswerRequest((0,) * num_tokens, max_tokens=1, sampling=Sampling(temperature=0.0)),
        )
        async with aclosing(self._generate(instance, request)) as tokens:
            async for _ in tokens:
                return
        raise NodeLost(f"{instance.assignments[0].name} ended the answer without a token")


def connect_orders(state: ClusterState, instance: Instance) -> list[tuple[NodeId, ConnectOrder]]:
    """Each stage's order, the last stage's first. Every worker must listen."""
    endpoints = []
    for assignment in instance.assignments:
        status = state.shard_status(instance, assignment)
        port = status.stream_port or 0 if status else 0
        endpoints.append(
            Endpoint(assignment.name, f":{port}", assignment.node_id)
        )  # each node knows its own way to the others
    last = len(endpoints) - 1
    orders = [
        ConnectOrder(
            model_id=instance.model_id,
            epoch=instance.epoch,
            stage=stage,
            num_stages=len(endpoints),
            previous=endpoints[stage - 1] if stage else None,
            tail=endpoints[last] if stage == 0 < last else None,
            next_name=endpoints[(stage + 1) % len(endpoints)].name,
            is_exact=is_exact(state, instance),
        )
        for stage in range(len(endpoints))
    ]
    return [(one.node_id, order) for one, order in zip(instance.assignments, orders, strict=True)][::-1]
