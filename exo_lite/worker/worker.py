"""A worker's state: its shard, being loaded or loaded, and the session of the epoch that it serves."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from threading import Lock
from typing import TypeVar

from exo_lite.domain.errors import (
    ExoLiteError,
    InvalidRequest,
    MalformedMessage,
    NodeLost,
    NotReady,
    StaleEpoch,
    StepHangs,
)
from exo_lite.domain.ids import Epoch
from exo_lite.domain.pipeline import ConnectOrder, Endpoint
from exo_lite.domain.request import GenerateRequest, Token
from exo_lite.domain.shard import Shard
from exo_lite.domain.step import num_kv_blocks
from exo_lite.domain.trace import RequestTrace
from exo_lite.domain.worker import WorkerConfig
from exo_lite.domain.worker_report import DriverReport, WorkerFailure, WorkerReport
from exo_lite.engine.engine import Engine
from exo_lite.pipeline.driver import Driver
from exo_lite.pipeline.scheduler import Features, Scheduler
from exo_lite.pipeline.stage import Stage
from exo_lite.worker.awake_cores import AwakeCores
from exo_lite.worker.loading import load_stage
from exo_lite.worker.peers import StagePeers
from exo_lite.worker.session import Session

log = logging.getLogger(__name__)

Result = TypeVar("Result")

PROVE_EVERY_S = 2.0
"""How often an idle driver proves its hops, and an idle worker lets the cores sleep."""


@dataclass(slots=True)
class _Loading:
    progress: float = 0.0
    error: ExoLiteError | None = None


class Worker:
    """Handles the calls of the worker's two servers. One step is computed at a time."""

    def __init__(self, config: WorkerConfig, engine: Engine, *, peers: StagePeers, clock: Callable[[], float]) -> None:
        self._config = config
        self._engine = engine
        self._peers = peers
        self._clock = clock
        self._computing = Lock()
        self._loading = _Loading()
        self._stage: Stage | None = None
        self._session: Session | None = None
        self._watching: asyncio.Task[None] | None = None
        self._connecting = asyncio.Lock()
        self._cores = AwakeCores()
        if config.cores_may_sleep:
            self._cores.close()

    async def run(self) -> None:
        """Load the shard, then keep the hops proven and let idle cores sleep, until cancelled.

        Raises StepHangs where a step does not end: its thread cannot be stopped, so the process has to go.
        """
        try:
            await self._load()
            while True:
                await asyncio.sleep(PROVE_EVERY_S)
                self._cores.release_if_unused()
                if self._session is not None:
                    self._check_step_age(self._session)
                    if self._session.driver is not None:
                        self._session.driver.prove_if_idle()
        finally:
            self._stop_watching()
            if self._session is not None:
                self._session.end(NodeLost(f"the worker on {self._config.node_name} ends"))
            self._cores.close()

    async def _load(self) -> None:
        try:
            self._stage = await _on_own_thread(partial(load_stage, self._engine, self._config, self._set_progress))
        except ExoLiteError as error:
            log.error("loading failed", extra={"shard": str(self._config.shard), "cause": str(error)})
            self._loading.error = error

    def report(self) -> WorkerReport:
        """How it is, of its shard, its place in a pipeline, and where it drives one, of that too."""
        session = self._session
        error = self._loading.error or (session.error if session else None)
        return WorkerReport(
            state="lost" if self._loading.error else "ready" if self._stage else "loading",
            progress=self._loading.progress,
            joined_epoch=session.epoch if session else Epoch(0),
            compute_ms=session.compute_ms if session else None,
            numerics=self._stage.numerics if self._stage else None,
            failure=_failure(error) if error else None,
            driver=self._driver_report(session.driver) if session and session.driver else None,
        )

    def _driver_report(self, driver: Driver) -> DriverReport:
        return DriverReport(
            num_running=driver.num_running,
            num_waiting=driver.num_waiting,
            idle_s=driver.idle_s,
            tokens_per_second=driver.tokens_per_second,
            hop_ms=driver.hop_ms,
            proof_age_s=None if driver.proved_at_s is None else self._clock() - driver.proved_at_s,
            num_kv_blocks=driver.num_kv_blocks,
            num_free_kv_blocks=driver.num_free_kv_blocks,
            counts=driver.counts,
        )

    async def on_connect(self, order: ConnectOrder) -> None:
        """Take a place in the pipeline of an epoch.

        Raises NotReady without a loaded shard, MalformedMessage for a place that is not the shard's, StaleEpoch for an
        epoch that is not newer.
        """
        _check_place(order, self._config.shard)
        async with self._connecting:
            stage = self._require_stage()
            if self._session is not None:
                if order.epoch <= self._session.epoch:
                    raise StaleEpoch(f"epoch {order.epoch} is not newer than {self._session.epoch}")
                self._session.end(NodeLost(f"the placement changed to epoch {order.epoch}"))
            session = Session(
                order,
                stage.compute,
                self._computing,
                on_start=stage.reset,  # then, not now: a step of the session before may be under way
                on_step=self._cores.hold,
                peers=self._peers,
                clock=self._clock,
            )
            self._session = session
            self._stop_watching()
            if (source := order.previous or order.tail) is not None:
                self._watching = asyncio.create_task(self._watch(session, source))
            if order.stage == 0:  # only now: what the driver starts comes round to this stage's outputs
                scheduler = self._scheduler(order, stage)
                session.start(Driver(scheduler, session.enqueue, num_stages=order.num_stages, clock=self._clock))

    async def _watch(self, session: Session, source: Endpoint) -> None:
        """End the session once the process that it reads from is silent. Every stage of the ring watches one."""
        session.end(await self._peers.until_silent(source))

    def _stop_watching(self) -> None:
        if self._watching is not None:
            self._watching.cancel()

    def _check_step_age(self, session: Session) -> None:
        """Raises StepHangs."""
        if session.step_age_s > self._config.max_step_s:
            raise StepHangs(
                f"stage {session.order.stage} on {self._config.node_name} has computed one step for "
                f"{session.step_age_s:.0f} s: it hangs"
            )

    def _require_stage(self) -> Stage:
        if self._stage is not None:
            return self._stage
        where = f"{self._config.shard} on {self._config.node_name}"
        if self._loading.error is not None:
            raise NotReady(f"{where} cannot be loaded: {self._loading.error}")
        raise NotReady(f"{where} is {self._loading.progress:.0%} loaded")

    def _scheduler(self, order: ConnectOrder, stage: Stage) -> Scheduler:
        options = self._config.options
        return Scheduler(
            epoch=order.epoch,
            num_stages=order.num_stages,
            num_sequences=options.num_sequences,
            num_blocks=options.num_slots * num_kv_blocks(options.context_length),
            context_length=options.context_length,
            vocab_size=stage.vocab_size,
            features=Features(
                prefix_cache=options.prefix_cache,
                speculation=options.speculation,
                is_exact=order.is_exact and stage.numerics is not None,
            ),
        )

    def traces(self) -> tuple[RequestTrace, ...]:
        """Return the traces of the last requests, the newest first. Raises as `generate`."""
        return self._require_driver().traces

    def generate(self, request: GenerateRequest) -> AsyncGenerator[Token, None]:
        """The driver's answer. Raises NotReady without a pipeline, InvalidRequest anywhere but at the driver."""
        return self._require_driver().generate(request)

    def outputs_of(self, epoch: Epoch) -> Session:
        """Raises NotReady without a pipeline, StaleEpoch for another one's. From any thread."""
        session = self._require_session()
        if session.epoch != epoch:
            place = f"{self._config.node_name} is stage {session.order.stage} of epoch {session.epoch}"
            raise StaleEpoch(f"{place}, and was asked for what it computes in epoch {epoch}")
        return session

    def _require_driver(self) -> Driver:
        session = self._require_session()
        if session.driver is None:
            raise InvalidRequest(f"{self._config.node_name} is stage {session.order.stage}: prompts go to stage 0")
        return session.driver

    def _require_session(self) -> Session:
        if self._session is None:
            raise NotReady(f"{self._config.shard} on {self._config.node_name} is in no pipeline yet")
        return self._session

    def _set_progress(self, progress: float) -> None:
        self._loading.progress = progress


def _failure(error: ExoLiteError) -> WorkerFailure:
    return WorkerFailure(str(error), error.code, error.failed_stages if isinstance(error, NodeLost) else None)


def _check_place(order: ConnectOrder, shard: Shard) -> None:
    """Raises MalformedMessage: in any other place steps would wait for ever for the next stage, or for this one."""
    is_last = order.stage == order.num_stages - 1
    agrees = (
        order.model_id == shard.model_id
        and 0 <= order.stage < order.num_stages
        and shard.is_first == (order.stage == 0)
        and shard.is_last == is_last
        and (order.previous is None) == shard.is_first
        and (order.tail is not None) == (shard.is_first and not is_last)
    )
    if not agrees:
        place = f"stage {order.stage} of {order.num_stages} of {order.model_id}"
        ends = (
            f"{'no' if order.previous is None else 'a'} stage before it and {'no' if order.tail is None else 'a'} tail"
        )
        raise MalformedMessage(f"{shard} cannot be {place} with {ends}")


async def _on_own_thread(function: Callable[[], Result]) -> Result:
    """Run `function` on a thread that ends with it, and return or raise its result.

    OpenMP keeps helpers for every thread that has computed: idle ones would cost those of the computing thread.
    """
    thread = ThreadPoolExecutor(1, thread_name_prefix="loading")
    try:
        return await asyncio.get_running_loop().run_in_executor(thread, function)
    finally:
        thread.shutdown(wait=False)
