"""The leader's work: place models, bring them up, place them anew when something is lost."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import replace
from functools import partial

from exo_lite.domain.clock import Clock
from exo_lite.domain.cluster import PlacementSeen
from exo_lite.domain.errors import DeadlineExceeded, ExoLiteError, ModelDoesNotFit, ModelNotFound, NodeLost, NotReady
from exo_lite.domain.healing import rewritten
from exo_lite.domain.ids import Epoch, ModelId, NodeId, RequestId
from exo_lite.domain.keep_alive import FOR_EVER
from exo_lite.domain.pipeline import ConnectOrder
from exo_lite.domain.placement import Departure, Instance, InstanceState, ModelDescription
from exo_lite.domain.plan import LoadOptions, LoadWish, NodeOffer, Plan, Refusal
from exo_lite.domain.request import GenerateRequest, Sampling, Token
from exo_lite.domain.worker import MAX_STEP_S
from exo_lite.node.cluster import Cluster
from exo_lite.node.decisions import (
    Action,
    GiveUp,
    Leave,
    LeaveSibling,
    PlaceAnew,
    WarmUp,
    connect_orders,
    next_actions,
    offers,
)
from exo_lite.node.failures import Failures
from exo_lite.node.hints import cause_of
from exo_lite.node.room import Room, find_room
from exo_lite.node.supervisor import Supervisor

log = logging.getLogger(__name__)

WARM_UP_TIMEOUT_S = 2 * MAX_STEP_S
"""Whatever is lost or hangs is told of long before; slow stages are no reason to give up."""
WARM_UP_TOKENS = 32
"""The length of the prompt whose time tells how much of a prompt a step may carry."""
UNTOLD_FOR_S = 0.5
"""After a warm-up that failed: if a worker is gone, its daemon tells of it in that time, and that is the reason."""
UNEXPLAINED_FOR_S = 2.5
"""After a stream broke off between two nodes that live: what else may be the reason is told in that time."""

ConnectShard = Callable[[NodeId, ConnectOrder], Awaitable[None]]
Generate = Callable[[Instance, GenerateRequest], AsyncGenerator[Token, None]]


class PlacementController:
    """Runs as one task on every node, and acts only on the leader."""

    def __init__(
        self,
        cluster: Cluster,
        connect_shard: ConnectShard,
        generate: Generate,
        clock: Clock,
        supervisor: Supervisor,
        *,
        is_up_to_date: Callable[[], bool] = lambda: True,
    ) -> None:
        self._cluster = cluster
        self._supervisor = supervisor
        self._connect_shard = connect_shard
        self._generate = generate
        self._is_up_to_date = is_up_to_date
        self._clock = clock
        self._under_way: set[Action] = set()
        self._failures = Failures(clock.now)

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            await self._supervisor.keep("placement", partial(self._keep_placing, tasks))

    async def _keep_placing(self, tasks: asyncio.TaskGroup) -> None:
        while True:
            changed = self._cluster.changed
            if self._cluster.state.is_leader and self._is_up_to_date():
                self._retry_failed()
                for action in next_actions(self._cluster.state):
                    with self._supervisor.containing(f"placing {action.model_id}"):  # the other models go on
                        self._act(tasks, action)
            await changed.wait()

    def place(self, model: ModelDescription, wish: LoadWish) -> Instance:
        """Place a model, or return it as it is where it already runs as wished.

        Idle models leave where it needs their room; none does where that would not be enough. Raises ModelDoesNotFit,
        or NotReady where it would fit if nodes reached each other.
        """
        existing = self._instance(model.model_id)
        is_any_good = wish.is_on_demand and existing is not None
        options = existing.options if existing is not None and is_any_good else wish.resolve(model.spec)
        if existing is not None and existing.state != "failed" and existing.options == options:
            return self._keep(existing, wish)
        room = self._room(model, options)
        if isinstance(room, Refusal):
            raise NotReady(room.reason) if room.broken_links else ModelDoesNotFit(room.reason)
        reason = "a request asked for it" if wish.is_on_demand else None
        return self._publish_plan(model, room, reason, _kept_s(existing, wish))

    def _keep(self, existing: Instance, wish: LoadWish) -> Instance:
        """The same instance, kept for as long as is wished now."""
        kept = replace(existing, keep_alive_s=_kept_s(existing, wish))
        if kept != existing:
            others = [one for one in self._instances() if one.model_id != existing.model_id]
            self._publish([*others, kept], self._cluster.state.epoch)
        return kept

    def plan(self, model: ModelDescription, options: LoadOptions) -> Plan | Refusal:
        """What would be placed where now, on the living nodes, perhaps in place of idle models."""
        room = self._room(model, options)
        return room if isinstance(room, Refusal) else room.plan

    def _room(self, model: ModelDescription, options: LoadOptions) -> Room | Refusal:
        return find_room(self._cluster.state, model, options, self._failures.doubtful)

    def offers(self, model_id: ModelId, fingerprint: str | None = None) -> list[NodeOffer]:
        """What the living nodes can give to a model; with a fingerprint, only those that have these very files."""
        return offers(self._cluster.state, model_id, fingerprint)

    def unplace(self, model_id: ModelId) -> None:
        """Take a model out of memory everywhere. Raises ModelNotFound."""
        if self._instance(model_id) is None:
            raise ModelNotFound(f"{model_id} is not loaded")
        self._remove(model_id, f"{model_id} was unloaded")

    def _remove(self, model_id: ModelId, text: str) -> None:
        epoch = self._next_epoch()
        old = self._cluster.state.placement
        staying = [one for one in self._instances() if one.model_id != model_id]
        siblings = [one for one in (old.siblings if old else ()) if one.model_id != model_id]
        self._publish_with(staying, siblings, epoch, [Departure(model_id, epoch, text)])

    def _remove_sibling(self, action: LeaveSibling) -> None:
        placement = self._cluster.state.placement
        if placement is not None:
            staying = [one for one in placement.siblings if one.dot != action.dot]
            self._publish_with(placement.instances, staying, placement.epoch, ())

    def _act(self, tasks: asyncio.TaskGroup, action: Action) -> None:
        if action in self._under_way or not (isinstance(action, LeaveSibling) or self._is_current(action)):
            return
        match action:
            case Leave(model_id, _, reason):
                self._remove(model_id, f"{model_id} left: {reason}")
            case GiveUp(model_id, _, reason, cause):
                self._give_up(model_id, reason, cause, is_permanent=True)
            case PlaceAnew(failed_link=None):
                self._place_anew(action)
            case PlaceAnew():
                self._under_way.add(action)
                tasks.create_task(self._supervisor.contain(f"placing {action.model_id}", self._place_around(action)))
            case LeaveSibling():
                self._remove_sibling(action)
            case WarmUp():
                self._under_way.add(action)
                tasks.create_task(self._supervisor.contain(f"warming up {action.model_id}", self._warm_up(action)))

    def _place_anew(self, action: PlaceAnew) -> None:
        instance = self._instance(action.model_id)
        if instance is None:
            return
        if not action.is_loss and self._failures.is_too_often(action.model_id, action.reason, action.cause):
            reason = f"it failed again and again, the last time: {action.reason}"
            self._give_up(action.model_id, reason, action.cause)
            return
        model = ModelDescription(action.model_id, instance.fingerprint, instance.spec)
        room = self._room(model, instance.options)
        if isinstance(room, Refusal):
            cause = cause_of(room)
            is_for_loss = action.is_loss and cause == ModelDoesNotFit.code
            self._give_up(action.model_id, f"{action.reason}; {room.reason}", action.cause if is_for_loss else cause)
        else:
            self._publish_plan(model, room, action.reason, instance.keep_alive_s)

    async def _place_around(self, action: PlaceAnew) -> None:
        """A stream broke off. Where nothing else explains it in time, the next plan leaves that link alone."""
        try:
            await asyncio.sleep(UNEXPLAINED_FOR_S)
            if not self._is_current(action):
                return
            explained = next((one for one in self._next_actions() if one.model_id == action.model_id), action)
            if isinstance(explained, PlaceAnew) and explained.failed_link is None:
                self._place_anew(explained)
            elif action.failed_link is not None:
                self._failures.doubt(action.failed_link)
                self._place_anew(action)
        finally:
            self._under_way.discard(action)

    def _next_actions(self) -> list[Action]:
        return next_actions(self._cluster.state)

    def _give_up(self, model_id: ModelId, reason: str, cause: str, *, is_permanent: bool = False) -> None:
        self._failures.give_up(model_id, self._cluster.state, is_permanent=is_permanent)
        self._set_state(model_id, "failed", reason, cause)

    def _retry_failed(self) -> None:
        """A failed model gets another try when the nodes, their links or the leader are others than at its failure."""
        state = self._cluster.state
        for one in self._instances():
            if one.state != "failed":
                continue
            reason = self._failures.retry_reason(one.model_id, state, is_pinned=one.is_pinned)
            if reason is not None:
                with self._supervisor.containing(f"placing {one.model_id}"):
                    cause = one.cause or ModelDoesNotFit.code
                    self._place_anew(PlaceAnew(one.model_id, one.epoch, reason, is_loss=True, cause=cause))

    async def _warm_up(self, action: WarmUp) -> None:
        """Join the workers and send one real token through every hop: the proof behind `ready`."""
        try:
            instance = self._set_state(action.model_id, "warming")
            async with asyncio.timeout(WARM_UP_TIMEOUT_S):
                for node_id, order in connect_orders(self._cluster.state, instance):
                    await self._connect_shard(node_id, order)
                await self._send_token(instance)
        except TimeoutError:
            error = DeadlineExceeded(f"no token came through within {WARM_UP_TIMEOUT_S:.0f} s")
            await self._note_warm_up_failure(action, error)
        except ExoLiteError as error:
            await self._note_warm_up_failure(action, error)
        except Exception as error:  # a task's top
            self._supervisor.note(f"warming up {action.model_id}", error)
            await self._note_warm_up_failure(action, ExoLiteError(f"{type(error).__name__}: {error}"))
        else:
            if self._is_current(action):
                self._failures.is_over(action.model_id)
                self._set_state(action.model_id, "ready")
        finally:
            self._under_way.discard(action)

    async def _send_token(self, instance: Instance) -> None:
        request = GenerateRequest(
            request_id=RequestId(f"warm-up-{instance.epoch}"),
            model_id=instance.model_id,
            epoch=instance.epoch,
            attempt=0,
            token_ids=(0,) * max(1, min(WARM_UP_TOKENS, instance.options.context_length - 1)),
            max_tokens=1,
            sampling=Sampling(temperature=0.0),
        )
        async with aclosing(self._generate(instance, request)) as tokens:
            async for _ in tokens:
                return
        raise NodeLost(f"{instance.assignments[0].name} ended the answer without a token")

    async def _note_warm_up_failure(self, action: WarmUp, error: ExoLiteError) -> None:
        """The workers' own words, if they come in time, are the better ones."""
        await asyncio.sleep(UNTOLD_FOR_S)
        if not self._is_current(action):
            return
        told = next((one for one in self._next_actions() if one.model_id == action.model_id), None)
        if isinstance(told, PlaceAnew | GiveUp):
            return  # that one is acted on
        reason = f"warming up failed: {error}"
        self._place_anew(PlaceAnew(action.model_id, action.epoch, reason, is_loss=False, cause=error.code))

    def _is_current(self, action: Action) -> bool:
        instance = self._instance(action.model_id)
        return self._cluster.state.is_leader and instance is not None and instance.epoch == action.epoch

    # Publishing.

    def _instances(self) -> tuple[Instance, ...]:
        placement = self._cluster.state.placement
        return placement.instances if placement else ()

    def _instance(self, model_id: ModelId) -> Instance | None:
        placement = self._cluster.state.placement
        return placement.instance(model_id) if placement else None

    def _next_epoch(self) -> Epoch:
        return Epoch(self._cluster.state.epoch + 1)

    def _publish_plan(self, model: ModelDescription, room: Room, reason: str | None, keep_alive_s: float) -> Instance:
        epoch = self._next_epoch()
        instance = Instance(
            model_id=model.model_id,
            fingerprint=model.fingerprint,
            spec=model.spec,
            epoch=epoch,
            options=room.plan.options,
            assignments=room.plan.assignments,
            state="loading",
            reason=reason,
            keep_alive_s=keep_alive_s,
        )
        replaced = {model.model_id, *room.leaving}
        staying = [one for one in self._instances() if one.model_id not in replaced]
        text = f"left to make room for {model.model_id}"
        self._publish([*staying, instance], epoch, [Departure(one, epoch, f"{one} {text}") for one in room.leaving])
        return instance

    def _set_state(
        self, model_id: ModelId, state: InstanceState, reason: str | None = None, cause: str | None = None
    ) -> Instance:
        changed = [
            replace(one, state=state, reason=reason, cause=cause) if one.model_id == model_id else one
            for one in self._instances()
        ]
        self._publish(changed, self._cluster.state.epoch)
        return next(one for one in changed if one.model_id == model_id)

    def _publish(self, instances: list[Instance], epoch: Epoch, departures: Sequence[Departure] = ()) -> None:
        old = self._cluster.state.placement
        self._publish_with(instances, old.siblings if old else (), epoch, departures)

    def _publish_with(
        self, instances: Sequence[Instance], siblings: Sequence[Instance], epoch: Epoch, departures: Sequence[Departure]
    ) -> None:
        state = self._cluster.state
        left = (*(state.placement.departures if state.placement else ()), *departures)
        wall_s = self._clock.wall()
        news = rewritten(state.placement, state.self_id, epoch, instances, siblings, left, wall_s=wall_s)
        self._cluster.apply(PlacementSeen(news))


def _kept_s(existing: Instance | None, wish: LoadWish) -> float:
    """How long a model is kept from now on: a request does not unpin what somebody pinned."""
    if wish.keep_alive_s is None or (wish.is_on_demand and existing is not None and existing.is_pinned):
        return FOR_EVER
    return wish.keep_alive_s
