"""Requests that entered here: sent to the head of their model, and ended when what they stand on is lost."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import replace

from exo_lite.domain.addresses import join_address, split_address
from exo_lite.domain.cluster_state import ClusterState, Member
from exo_lite.domain.errors import ExoLiteError, InvalidRequest, NodeLost, NotReady, StaleEpoch
from exo_lite.domain.ids import InstanceId, ModelId, NodeId, RequestId
from exo_lite.domain.links import next_hop
from exo_lite.domain.pipeline import Hop
from exo_lite.domain.placement import Instance
from exo_lite.domain.request import MAX_PROMPT_LOGPROBS, GenerateRequest, Sampling, Terms, Token
from exo_lite.domain.trace import TraceReport
from exo_lite.node.cluster import Cluster
from exo_lite.node.peers import Peers, PeerWorker

TRACES_TIMEOUT_S = 5.0
MAX_UNREAD_TOKENS = 64
"""That wait here for a client that reads slowly; the others wait with the head."""
MAX_RELAYS = 4
"""Nodes that a request may go through: more only while they do not know yet who reaches whom."""


class Requests:
    """Of one entry node, which reaches its own worker at `own_host`."""

    def __init__(self, cluster: Cluster, peers: Peers, own_host: str = "127.0.0.1") -> None:
        self._cluster = cluster
        self._peers = peers
        self._own_host = own_host
        self._clients: dict[str, PeerWorker] = {}

    async def close(self) -> None:
        await asyncio.gather(*(client.close() for client in self._clients.values()))

    def ready_instance(self, model_id: ModelId) -> Instance:
        """Raises NotReady where it is not loaded, or not yet."""
        instance = self._instance(model_id)
        if instance.state == "ready":
            return instance
        because = f": {instance.reason}" if instance.reason else ""
        raise NotReady(f"{model_id} is {instance.state}{because}")

    async def generate(
        self,
        model_id: ModelId,
        token_ids: Sequence[int],
        max_tokens: int,
        sampling: Sampling,
        stop_token_ids: frozenset[int],
        terms: Terms,
    ) -> AsyncGenerator[Token, None]:
        """The answer's tokens. Raises InvalidRequest, what the head raises, or NodeLost. Closing cancels everywhere."""
        instance = self.ready_instance(model_id)
        _check_token_ids(token_ids, instance.spec.vocab_size, param="prompt")
        _check_token_ids([one for one, _ in sampling.logit_bias], instance.spec.vocab_size, param="logit_bias")
        _check_prompt_logprobs(len(token_ids), sampling)
        known = tuple(
            one for one in sampling.late_token_ids if one < instance.spec.vocab_size
        )  # padding may lie beyond
        sampling = replace(sampling, late_token_ids=known)
        request = GenerateRequest(
            request_id=RequestId(secrets.token_hex(12)),
            model_id=model_id,
            epoch=instance.epoch,
            attempt=0,
            token_ids=tuple(token_ids),
            max_tokens=max_tokens,
            sampling=sampling,
            stop_token_ids=stop_token_ids,
            tenant=terms.tenant,
            timeout_s=terms.timeout_s,
        )
        async with aclosing(self.generate_on(instance, request)) as tokens:
            async for token in tokens:
                yield token

    async def relay(self, request: GenerateRequest, num_relays: int) -> AsyncGenerator[Token, None]:
        """As `generate_on`, for a node that does not reach the head. Raises NotReady, StaleEpoch or NodeLost."""
        current = self._instance(request.model_id)
        instance = self._cluster.state.find(InstanceId(request.model_id, request.epoch))
        if instance is None:
            raise StaleEpoch(f"{current.model_id} is placed in epoch {current.epoch}, not {request.epoch}: ask again")
        async with aclosing(self.generate_on(instance, request, num_relays=num_relays)) as tokens:
            async for token in tokens:
                yield token

    async def generate_on(
        self, instance: Instance, request: GenerateRequest, *, num_relays: int = 0
    ) -> AsyncGenerator[Token, None]:
        """As `generate`, on an instance in whatever state, and through others where the head is out of reach."""
        news: asyncio.Queue[Token | BaseException | None] = asyncio.Queue()
        places = asyncio.Semaphore(MAX_UNREAD_TOKENS)  # the end of an answer needs none

        async def read() -> None:
            async with aclosing(self._answer(instance, request, num_relays)) as tokens:
                async for token in tokens:
                    await places.acquire()
                    news.put_nowait(token)

        async def watch() -> None:
            raise NodeLost(await self._wait_for_loss(instance))

        tasks = [asyncio.ensure_future(read()), asyncio.ensure_future(watch())]
        for task in tasks:
            task.add_done_callback(lambda done: None if done.cancelled() else news.put_nowait(done.exception()))
        try:
            while (item := await news.get()) is not None:
                if isinstance(item, BaseException):
                    raise item
                places.release()
                yield item
                if item.finish_reason is not None:
                    return
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)

    async def _answer(
        self, instance: Instance, request: GenerateRequest, num_relays: int
    ) -> AsyncGenerator[Token, None]:
        relay = _relay(self._cluster.state, instance)
        if relay is None:
            async with aclosing(self._head_client(instance).generate(request)) as tokens:
                async for token in tokens:
                    yield token
            return
        if num_relays >= MAX_RELAYS:
            raise NodeLost(f"{instance.assignments[0].name}, the head of {instance.model_id}, is out of reach")
        async with (
            self._peers.node(relay.address) as client,
            aclosing(client.relay(request, num_relays + 1)) as tokens,
        ):
            async for token in tokens:
                yield token

    async def traces(self, model_id: ModelId) -> TraceReport:
        """Of its last requests, wherever they entered. Raises NotReady where it is not loaded."""
        instance = self._instance(model_id)
        try:
            return TraceReport(instance, await self._head_client(instance).traces(timeout_s=TRACES_TIMEOUT_S))
        except ExoLiteError as error:
            return TraceReport(instance, reason=str(error))

    def proof_age_s(self, instance: Instance) -> float | None:
        """Since something went through every hop of an instance."""
        status = self._cluster.state.shard_status(instance, instance.assignments[0])
        return status.proof_age_s if status and status.epoch == instance.epoch else None

    def _instance(self, model_id: ModelId) -> Instance:
        """Raises NotReady where it is not loaded."""
        instance = self._cluster.state.instance_of(model_id)
        if instance is None:
            raise NotReady(f"{model_id} is not loaded any more: ask again")
        return instance

    def _head_client(self, instance: Instance) -> PeerWorker:
        """The long-lived channel to an instance's head. Raises NotReady."""
        head = instance.assignments[0]
        status = self._cluster.state.shard_status(instance, head)
        host = self._host_of(head.node_id)
        if status is None or status.worker_port is None or host is None:
            raise NotReady(f"the worker on {head.name}, the head of {instance.model_id}, is not there yet")
        address = join_address(host, status.worker_port)
        client = self._clients.get(address)
        if client is None or client.hop.name != head.name:
            client = self._clients[address] = self._peers.worker(Hop(head.name, address))
        return client

    def _host_of(self, node_id: NodeId) -> str | None:
        if node_id == self._cluster.state.self_id:
            return self._own_host
        address = self._cluster.state.address_of(node_id)
        return split_address(address)[0] if address else None

    async def _wait_for_loss(self, instance: Instance) -> str:
        return await self._cluster.wait_for(lambda state: state.end_reason(instance))


def _relay(state: ClusterState, instance: Instance) -> Member | None:
    """The node to send a request to where its head does not answer this one."""
    head = instance.assignments[0].node_id
    if head not in state.self_status.unreached:
        return None
    nearer = next_hop(state, head)
    return None if nearer is None or nearer == head else state.members[nearer]


def _check_token_ids(token_ids: Sequence[int], vocab_size: int, *, param: str) -> None:
    """Raises InvalidRequest, before any hop."""
    unknown = next((token_id for token_id in token_ids if not 0 <= token_id < vocab_size), None)
    if unknown is not None:
        raise InvalidRequest(f"token id {unknown} is not within 0..{vocab_size - 1}", param=param)


def _check_prompt_logprobs(num_prompt_tokens: int, sampling: Sampling) -> None:
    """Raises InvalidRequest for more than one message holds."""
    num_logprobs = num_prompt_tokens * (1 + (sampling.logprobs or 0))
    if sampling.prompt_logprobs and num_logprobs > MAX_PROMPT_LOGPROBS:
        raise InvalidRequest(
            f"{num_prompt_tokens} prompt tokens with {sampling.logprobs} likely ones beside each come to "
            f"{num_logprobs} log probabilities, more than {MAX_PROMPT_LOGPROBS}: ask for fewer, or shorten the prompt",
            param="logprobs",
        )
