"""Attempts at answers, each on one instance: tokens from its driver, until they end or what they stand on is lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from functools import partial

from exo_lite.domain.cluster_state import ClusterState, Member
from exo_lite.domain.errors import ExoLiteError, NodeLost, StaleEpoch
from exo_lite.domain.ids import InstanceId
from exo_lite.domain.links import next_hop
from exo_lite.domain.placement import Instance
from exo_lite.domain.request import GenerateRequest, Token
from exo_lite.node.cluster import Cluster
from exo_lite.node.drivers import Drivers
from exo_lite.node.peers import Peers

MAX_RELAYS = 4
"""Nodes that a request may go through: more only while they do not know yet who reaches whom."""


class Attempt:
    """The tokens of one attempt, read as they are asked for: those that nobody wants yet wait with the driver.

    `find_loss` says why the attempt cannot go on, as far as the cluster knows. Its word counts more than that of the
    broken stream.
    """

    def __init__(self, tokens: AsyncIterator[Token], find_loss: Callable[[], str | None]) -> None:
        self._tokens = tokens
        self._find_loss = find_loss
        self._loss: NodeLost | None = None
        self._reading: asyncio.Timeout | None = None

    async def next(self) -> Token | None:
        """The next token; None after the last one. Raises what the driver raised, or NodeLost."""
        if self._loss is not None:
            raise self._loss
        try:
            async with asyncio.timeout(None) as self._reading:  # ended by `look`, not by time
                return await anext(self._tokens, None)
        except TimeoutError:
            if self._loss is None:
                raise
            raise self._loss from None
        except ExoLiteError as error:
            raise self._told_of(error) from error
        finally:
            self._reading = None

    def _told_of(self, error: ExoLiteError) -> ExoLiteError:
        """Return the error to tell for an error of the stream."""
        self._reading = None  # nothing is left to be interrupted
        if error.is_recoverable:
            self.look()
        return self._loss or error

    def look(self) -> None:
        """End the attempt if the cluster knows of a loss. To be called whenever its state changes."""
        reason = self._find_loss() if self._loss is None else None
        if reason is not None:
            self._loss = NodeLost(reason)
            if self._reading is not None:
                self._reading.reschedule(asyncio.get_running_loop().time())


class Attempts:
    """The attempts of requests that entered or are relayed here. `run` must be running to notice losses."""

    def __init__(self, cluster: Cluster, peers: Peers, drivers: Drivers) -> None:
        self._cluster = cluster
        self._peers = peers
        self._drivers = drivers
        self._open: set[Attempt] = set()

    async def run(self) -> None:
        """End attempts whose ground is lost, and close the channels to drivers that are gone, until cancelled."""
        async for _ in self._cluster.states():
            for attempt in self._open:
                attempt.look()
            await self._drivers.close_gone()

    @asynccontextmanager
    async def begin(
        self, instance: Instance, request: GenerateRequest, *, num_relays: int = 0
    ) -> AsyncGenerator[Attempt, None]:
        """Send a request to an instance in whatever state; leaving the context cancels it on every node.

        It goes through others where the driver is out of reach. Raises NotReady or NodeLost.
        """
        reason = self._loss_of(instance)
        if reason is not None:
            raise NodeLost(reason)
        async with self._sent(instance, request, num_relays) as tokens:
            attempt = Attempt(tokens, partial(self._loss_of, instance))
            self._open.add(attempt)
            try:
                yield attempt
            finally:
                self._open.discard(attempt)

    async def tokens(
        self, instance: Instance, request: GenerateRequest, *, num_relays: int = 0
    ) -> AsyncGenerator[Token, None]:
        """The tokens of one attempt. Raises what `begin` and the driver raise."""
        async with self.begin(instance, request, num_relays=num_relays) as attempt:
            while (token := await attempt.next()) is not None:
                yield token

    def relay(self, request: GenerateRequest, num_relays: int) -> AsyncGenerator[Token, None]:
        """The same for a node that does not reach the driver. Raises NotReady or StaleEpoch."""
        current = self._drivers.instance(request.model_id)
        instance = self._cluster.state.find(InstanceId(request.model_id, request.epoch))
        if instance is None:
            raise StaleEpoch(
                f"{current.model_id} was placed again, in epoch {current.epoch}, not {request.epoch}: try again"
            )
        return self.tokens(instance, request, num_relays=num_relays)

    @asynccontextmanager
    async def _sent(
        self, instance: Instance, request: GenerateRequest, num_relays: int
    ) -> AsyncGenerator[AsyncIterator[Token], None]:
        relay = _relay(self._cluster.state, instance)
        if relay is None:
            with self._drivers.use(instance) as driver:
                async with aclosing(driver.generate(request)) as tokens:
                    yield tokens
            return
        if num_relays >= MAX_RELAYS:
            raise NodeLost(f"{instance.assignments[0].name}, the first node of {instance.model_id}, is out of reach")
        async with self._peers.node(relay.address) as node, aclosing(node.relay(request, num_relays + 1)) as tokens:
            yield tokens

    def _loss_of(self, instance: Instance) -> str | None:
        return self._cluster.state.end_reason(instance)


def _relay(state: ClusterState, instance: Instance) -> Member | None:
    """The node to send a request to where the driver's node does not answer this one."""
    first = instance.assignments[0].node_id
    if first not in state.self_status.unreached:
        return None
    nearer = next_hop(state, first)
    return None if nearer is None or nearer == first else state.members[nearer]
