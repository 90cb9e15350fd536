"""A worker in memory: it loads for a while, joins its neighbours, and answers with tokens that anybody can foretell."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace

from exo_lite.domain.errors import ConnectionRefused, ExoLiteError, InvalidRequest, NodeLost, NotReady, StaleEpoch
from exo_lite.domain.ids import Epoch
from exo_lite.domain.node import ShardStatus
from exo_lite.domain.pipeline import ConnectOrder, Endpoint
from exo_lite.domain.request import GenerateRequest, Token
from exo_lite.domain.trace import RequestTrace
from exo_lite.domain.worker import WorkerConfig
from exo_lite.domain.worker_report import DriverReport, WorkerFailure, WorkerReport
from tests.unit.node.simulation.network import Network, as_received, host_of, unanswered
from tests.unit.node.simulation.peers import WorkerCalls
from tests.unit.node.simulation.virtual_time import now_s

LISTENS_AFTER_S = 0.3
LOADS_FOR_S = 0.7
TELLS_EVERY_S = 0.25
PROOF_EVERY_S = 2.0
STEP_S = 0.01
"""What a stage computes for."""


def expected_tokens(prompt: Sequence[int], n_layers: int, num_tokens: int, vocab_size: int) -> list[int]:
    """What a pipeline answers whose stages hold every layer once, in order."""
    return [_token_id(prompt, index, range(n_layers), vocab_size) for index in range(num_tokens)]


def _token_id(prompt: Sequence[int], index: int, layers: Sequence[int], vocab_size: int) -> int:
    return zlib.crc32(repr((list(prompt), index, list(layers))).encode()) % vocab_size


class Session:
    """A stage's part in one epoch."""

    def __init__(self, order: ConnectOrder) -> None:
        self.order = order
        self.error: ExoLiteError | None = None
        self.num_requests = 0
        self.proved_at_s: float | None = None
        self.idle_since_s = now_s()


class SimulatedWorker:
    """Fits node.shards.HeldWorker. Runs on `host`, and is one for its neighbours too."""

    def __init__(
        self,
        network: Network,
        host: str,
        vocab_size: int,
        config: WorkerConfig,
        fingerprint: str,
        epoch: Epoch,
        on_change: Callable[[], None],
    ) -> None:
        self.config = config
        self.fingerprint = fingerprint
        self.host = host
        self.session: Session | None = None
        self._network = network
        self._vocab_size = vocab_size
        self._on_change = on_change
        self._is_loaded = False
        self._tasks: list[asyncio.Task[None]] = []
        self.status = ShardStatus(
            shard=config.shard,
            placed_epoch=epoch,
            weight_bytes=config.weight_bytes,
            kv_cache_bytes=config.kv_cache_bytes,
            working_bytes=config.working_bytes,
        )

    async def run(self) -> None:
        await asyncio.sleep(LISTENS_AFTER_S)
        ports = [self._network.free_port(self.host) for _ in range(2)]
        listeners = [self._network.listen(f"{self.host}:{port}", self) for port in ports]
        try:
            self._tell(
                replace(self.status, worker_port=ports[0], stream_port=ports[1], report=WorkerReport(progress=0.5))
            )
            await asyncio.sleep(LOADS_FOR_S)
            self._is_loaded = True
            while True:
                self._tell(self._told_now())
                await asyncio.sleep(TELLS_EVERY_S)
        finally:
            for listener in listeners:
                listener.close()
            self._end_tasks()

    def keep_for(self, epoch: Epoch) -> None:
        self._tell(replace(self.status, placed_epoch=epoch))

    def peer(self) -> WorkerCalls:
        if self.status.worker_port is None:
            raise NodeLost(f"the worker on {self.config.node_name} does not listen yet")
        endpoint = Endpoint(self.config.node_name, f"{self.host}:{self.status.worker_port}")
        return WorkerCalls(self._network, self.host, endpoint)

    async def on_connect(self, order: ConnectOrder) -> None:
        if not self._is_loaded:
            raise NotReady(f"{self.config.shard} on {self.config.node_name} is still loading")
        if self.session is not None and order.epoch <= self.session.order.epoch:
            raise StaleEpoch(f"epoch {order.epoch} is not newer than {self.session.order.epoch}")
        if self.session is not None:
            self._end(self.session, NodeLost(f"the placement changed to epoch {order.epoch}"))
        self._end_tasks()
        session = self.session = Session(order)
        self._network.tell()
        if (source := order.previous or order.tail) is not None:
            self._start(self._follow(session, source))
        if order.stage == 0:
            self._start(self._keep_proving(session))

    def traces(self) -> tuple[RequestTrace, ...]:
        return ()

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Token, None]:
        session = self._driver_session(request.epoch)
        session.num_requests += 1
        try:
            for index in range(len(request.answer_token_ids), request.asked.max_tokens):
                layers = await self._go_round(session)
                token_id = _token_id(request.asked.token_ids, index, layers, self._vocab_size)
                yield Token(index, token_id, "length" if index == request.asked.max_tokens - 1 else None)
        finally:
            session.num_requests -= 1
            session.idle_since_s = now_s()

    def _driver_session(self, epoch: Epoch) -> Session:
        if self.session is None:
            raise NotReady(f"{self.config.shard} on {self.config.node_name} is in no pipeline yet")
        if self.session.order.stage != 0:
            raise InvalidRequest(f"{self.config.node_name} is stage {self.session.order.stage}")
        if self.session.order.epoch != epoch:
            raise StaleEpoch(f"a request of epoch {epoch} came to epoch {self.session.order.epoch}")
        return self.session

    async def _go_round(self, session: Session) -> list[int]:
        """Send a step through every stage; return the layers that it has met."""
        layers: list[int] = []
        for worker, after in self._ring(session):
            await asyncio.sleep(STEP_S)
            layers += worker.config.shard.layers
            self._raise_if_over(session)
            await self._carry(session, worker.host, after.host)
        session.proved_at_s = now_s()
        return layers

    def _ring(self, session: Session) -> Iterator[tuple[SimulatedWorker, SimulatedWorker]]:
        """Each stage with the one after it. Raises NodeLost where one is gone."""
        stages, endpoint = [self], session.order.tail
        while endpoint is not None:
            stage = self._network.handler_at(endpoint.address)
            if stage is None or stage.session is None or stage.session.order.epoch != session.order.epoch:
                raise NodeLost(f"{endpoint.name} is no stage of epoch {session.order.epoch}")
            stages.insert(1, stage)
            endpoint = stage.session.order.previous if stage.session.order.stage > 1 else None
        return zip(stages, [*stages[1:], self], strict=True)

    async def _carry(self, session: Session, one: str, other: str) -> None:
        await asyncio.sleep(self._network.delay_s)
        while not self._network.passes(one, other):
            await self._network.changed.wait()
            self._raise_if_over(session)
        self._raise_if_over(session)

    def _raise_if_over(self, session: Session) -> None:
        if session.error is not None:
            raise session.error

    async def _keep_proving(self, session: Session) -> None:
        with suppress(ExoLiteError):
            while True:
                await asyncio.sleep(PROOF_EVERY_S)
                if session.num_requests == 0 and session.proved_at_s is not None:
                    await self._go_round(session)

    async def _follow(self, session: Session, source: Endpoint) -> None:
        """End with the stage before, or once it is gone or silent."""
        other = host_of(source.address)
        while session.error is None:
            changed = self._network.changed
            if self._network.connects(self.host, other):
                error = self._what_ended(session, source)
                if error is None:
                    await changed.wait()
                else:
                    self._end(session, error)
            elif await self._network.stays_cut(self.host, other, self.config.hang_timeout_s):
                text = f"{source.name} ({source.address}) has not answered for {self.config.hang_timeout_s:g} s"
                self._end(session, unanswered(NodeLost(text)))

    def _what_ended(self, session: Session, source: Endpoint) -> ExoLiteError | None:
        stage = self._network.handler_at(source.address)
        if stage is None:
            text = f"{source.name} ({source.address}) cannot be connected to any more: its process is gone"
            return unanswered(ConnectionRefused(text))
        theirs = stage.session
        if theirs is None or theirs.order.epoch < session.order.epoch:
            return None  # it is still to be told
        if theirs.order.epoch > session.order.epoch:
            return NodeLost(f"the placement changed to epoch {theirs.order.epoch}")
        return None if theirs.error is None else as_received(theirs.error)

    def _end(self, session: Session, error: ExoLiteError) -> None:
        if session.error is not None:
            return
        if isinstance(error, NodeLost) and error.is_unanswered and error.failed_stages is None:
            stage, num_stages = session.order.stage, session.order.num_stages
            error.failed_stages = ((stage or num_stages) - 1, stage)
        session.error = error
        self._network.tell()

    def _told_now(self) -> ShardStatus:
        session = self.session
        error = session.error if session else None
        stages = error.failed_stages if isinstance(error, NodeLost) else None
        report = WorkerReport(
            state="ready",
            progress=1.0,
            joined_epoch=session.order.epoch if session else Epoch(0),
            failure=WorkerFailure(str(error), error.code, stages) if error else None,
            driver=_driver_report(session) if session is not None and session.order.stage == 0 else None,
        )
        return replace(self.status, report=report)

    def _tell(self, status: ShardStatus) -> None:
        if status != self.status:
            self.status = status
            self._on_change()

    def _start(self, work: Coroutine[object, object, None]) -> None:
        self._tasks.append(asyncio.ensure_future(work))

    def _end_tasks(self) -> None:
        for task in self._tasks:
            task.cancel()
        self._tasks.clear()


def _driver_report(session: Session) -> DriverReport:
    return DriverReport(
        num_running=session.num_requests,
        idle_s=0.0 if session.num_requests else now_s() - session.idle_since_s,
        proof_age_s=None if session.proved_at_s is None else now_s() - session.proved_at_s,
    )
