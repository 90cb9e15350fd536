"""The leader's work: place models, bring them up, place them again when something is lost.

Pure functions decide: `decisions` what is to be done, `eviction` which idle models are unloaded for another one,
`placing` what is written.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial

from exo_lite.domain.clock import Clock
from exo_lite.domain.cluster_events import PlacementSeen
from exo_lite.domain.errors import ExoLiteError, ModelDoesNotFit, ModelNotFound, NotReady
from exo_lite.domain.healing import signed
from exo_lite.domain.ids import InstanceId, ModelId
from exo_lite.domain.load_options import LoadOptions, LoadRequest
from exo_lite.domain.placement import Instance, InstanceState, ModelDescription, Placement
from exo_lite.domain.plan import NodeOffer, Plan, Refusal
from exo_lite.node import placing
from exo_lite.node.cluster import Cluster
from exo_lite.node.decisions import (
    Action,
    EvictIdle,
    EvictSibling,
    GiveUp,
    Replan,
    WarmUp,
    next_actions,
    offers,
)
from exo_lite.node.eviction import PlanWithEvictions, plan_with_evictions
from exo_lite.node.failures import Failures
from exo_lite.node.hints import cause_of
from exo_lite.node.supervisor import Supervisor

log = logging.getLogger(__name__)

REPORT_WITHIN_S = 0.5
"""The wait after a failed warm-up: if a worker is gone, its daemon reports it in that time, which is the reason."""
UNEXPLAINED_FOR_S = 2.5
"""The wait after a stream broke between two living nodes: any other reason is reported in that time."""

Prove = Callable[[Instance], Awaitable[None]]


class Leader:
    """Runs as one task on every node, and acts only where that node leads.

    `prove` returns once a token has gone through every hop of an instance.
    """

    def __init__(
        self,
        cluster: Cluster,
        prove: Prove,
        clock: Clock,
        supervisor: Supervisor,
        *,
        is_up_to_date: Callable[[], bool] = lambda: True,
    ) -> None:
        self._cluster = cluster
        self._supervisor = supervisor
        self._prove = prove
        self._is_up_to_date = is_up_to_date
        self._clock = clock
        self._under_way: set[Action] = set()
        self._failures = Failures(clock.now)

    async def run(self) -> None:
        """Run until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            await self._supervisor.keep("placement", partial(self._keep_placing, tasks))

    async def _keep_placing(self, tasks: asyncio.TaskGroup) -> None:
        async for state in self._cluster.states():
            if state.is_leader and self._is_up_to_date():
                self._retry_failed()
                for action in self._next_actions():
                    what = f"placing {action.instance_id.model_id}"
                    with self._supervisor.containing(what):  # the other models go on
                        self._act(tasks, action)

    def place(self, model: ModelDescription, request: LoadRequest) -> Instance:
        """Place a model, or return it as it is where it already runs as asked.

        Idle models are evicted where it needs their memory, and none where that would not be enough. Raises
        ModelDoesNotFit, or NotReady where it would fit if nodes reached each other.
        """
        existing = self._written.instance_of(model.model_id)
        is_any_good = request.is_on_demand and existing is not None
        options = existing.options if existing is not None and is_any_good else request.resolve(model.spec)
        if existing is not None and existing.state != "failed" and existing.options == options:
            return self._keep(existing, request)
        found = self._plan_with_evictions(model, options)
        if isinstance(found, Refusal):
            raise NotReady(found.reason) if found.broken_links else ModelDoesNotFit(found.reason)
        reason = "a request asked for it" if request.is_on_demand else None
        return self._place(model, found, reason, placing.kept_s(existing, request))

    def _keep(self, existing: Instance, request: LoadRequest) -> Instance:
        """The same instance, kept for as long as is asked now."""
        kept = replace(existing, keep_alive_s=placing.kept_s(existing, request))
        if kept != existing:
            self._publish(placing.changed(self._written, kept))
        return kept

    def _place(
        self, model: ModelDescription, planned: PlanWithEvictions, reason: str | None, keep_alive_s: float
    ) -> Instance:
        instance = placing.new_instance(self._written, model, planned.plan, reason, keep_alive_s)
        self._publish(placing.placed(self._written, instance, planned.evicted))
        return instance

    def plan(self, model: ModelDescription, options: LoadOptions) -> Plan | Refusal:
        """Plan a model on the living nodes, if need be in place of idle models."""
        found = self._plan_with_evictions(model, options)
        return found if isinstance(found, Refusal) else found.plan

    def _plan_with_evictions(self, model: ModelDescription, options: LoadOptions) -> PlanWithEvictions | Refusal:
        return plan_with_evictions(self._cluster.state, model, options, self._failures.doubtful)

    def offers(self, model_id: ModelId, fingerprint: str | None = None) -> list[NodeOffer]:
        """Return what the living nodes can give to a model; with a fingerprint, only nodes with these very files."""
        return offers(self._cluster.state, model_id, fingerprint)

    def unplace(self, model_id: ModelId) -> None:
        """Take a model out of memory everywhere. Raises ModelNotFound."""
        if self._written.instance_of(model_id) is None:
            raise ModelNotFound(f"{model_id} is not loaded")
        self._publish(placing.unloaded(self._written, model_id))

    def _act(self, tasks: asyncio.TaskGroup, action: Action) -> None:
        if action in self._under_way or not (isinstance(action, EvictSibling) or self._is_current(action)):
            return
        model_id = action.instance_id.model_id
        match action:
            case EvictIdle(instance_id, reason):
                self._publish(placing.evicted(self._written, instance_id, reason))
            case GiveUp(instance_id, reason, cause):
                self._give_up(instance_id, reason, cause, is_permanent=True)
            case Replan(failed_link=None):
                self._replan(action)
            case Replan():
                self._under_way.add(action)
                tasks.create_task(self._supervisor.contain(f"placing {model_id}", self._place_around(action)))
            case EvictSibling():
                self._publish(placing.without_sibling(self._written, action.dot))
            case WarmUp():
                self._under_way.add(action)
                tasks.create_task(self._supervisor.contain(f"warming up {model_id}", self._warm_up(action)))

    def _replan(self, action: Replan) -> None:
        instance = self._written.find(action.instance_id)
        if instance is None:
            return
        if not action.is_loss and self._failures.is_too_often(instance.model_id, action.reason, action.cause):
            reason = f"it failed repeatedly, the last time: {action.reason}"
            self._give_up(action.instance_id, reason, action.cause)
            return
        model = ModelDescription(instance.model_id, instance.fingerprint, instance.spec)
        found = self._plan_with_evictions(model, instance.options)
        if isinstance(found, Refusal):
            cause = cause_of(found)
            is_for_loss = action.is_loss and cause == ModelDoesNotFit.code
            self._give_up(
                action.instance_id, f"{action.reason}; {found.reason}", action.cause if is_for_loss else cause
            )
        else:
            self._place(model, found, action.reason, instance.keep_alive_s)

    async def _place_around(self, action: Replan) -> None:
        """A stream broke off. Where nothing else explains it in time, the next plan leaves that link alone."""
        try:
            await asyncio.sleep(UNEXPLAINED_FOR_S)
            if not self._is_current(action):
                return
            explained = next((one for one in self._next_actions() if one.instance_id == action.instance_id), action)
            if isinstance(explained, Replan) and explained.failed_link is None:
                self._replan(explained)
            elif action.failed_link is not None:
                self._failures.doubt(action.failed_link)
                self._replan(action)
        finally:
            self._under_way.discard(action)

    def _next_actions(self) -> list[Action]:
        return next_actions(self._cluster.state)

    def _give_up(self, instance_id: InstanceId, reason: str, cause: str, *, is_permanent: bool = False) -> None:
        self._failures.give_up(instance_id.model_id, self._cluster.state, is_permanent=is_permanent)
        self._set_state(instance_id, "failed", reason, cause)

    def _retry_failed(self) -> None:
        """A failed model gets another try when the nodes, their links or the leader are others than at its failure."""
        state = self._cluster.state
        for one in self._written.instances:
            if one.state != "failed":
                continue
            reason = self._failures.retry_reason(one.model_id, state, is_pinned=one.is_pinned)
            if reason is not None:
                with self._supervisor.containing(f"placing {one.model_id}"):
                    cause = one.cause or ModelDoesNotFit.code
                    self._replan(Replan(one.id, reason, is_loss=True, cause=cause))

    async def _warm_up(self, action: WarmUp) -> None:
        try:
            await self._prove(self._set_state(action.instance_id, "warming"))
        except ExoLiteError as error:
            await self._note_warm_up_failure(action, error)
        except Exception as error:  # a task's top
            self._supervisor.note(f"warming up {action.instance_id.model_id}", error)
            await self._note_warm_up_failure(action, ExoLiteError(f"{type(error).__name__}: {error}"))
        else:
            if self._is_current(action):
                self._failures.is_over(action.instance_id.model_id)
                self._set_state(action.instance_id, "ready")
        finally:
            self._under_way.discard(action)

    async def _note_warm_up_failure(self, action: WarmUp, error: ExoLiteError) -> None:
        """The workers' own words, if they come in time, are the better ones."""
        await asyncio.sleep(REPORT_WITHIN_S)
        if not self._is_current(action):
            return
        told = next((one for one in self._next_actions() if one.instance_id == action.instance_id), None)
        if isinstance(told, Replan | GiveUp):
            return  # that one is acted on
        reason = f"warming up failed: {error}"
        self._replan(Replan(action.instance_id, reason, is_loss=False, cause=error.code))

    def _is_current(self, action: Action) -> bool:
        is_placed = any(one.id == action.instance_id for one in self._written.instances)
        return self._cluster.state.is_leader and is_placed

    @property
    def _written(self) -> Placement:
        return self._cluster.state.written

    def _set_state(
        self, instance_id: InstanceId, state: InstanceState, reason: str | None = None, cause: str | None = None
    ) -> Instance:
        old = next(one for one in self._written.instances if one.id == instance_id)
        new = replace(old, state=state, reason=reason, cause=cause)
        self._publish(placing.changed(self._written, new))
        return new

    def _publish(self, new: Placement) -> None:
        news = signed(self._written, new, self._cluster.state.self_id, wall_s=self._clock.wall())
        self._cluster.apply(PlacementSeen(news))
