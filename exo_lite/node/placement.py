"""The leader's work: place models, bring them up, place them anew when something is lost."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import defaultdict, deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import replace
from functools import partial

from exo_lite.domain.cluster import PlacementSeen
from exo_lite.domain.errors import ExoLiteError, ModelDoesNotFit, ModelNotFound, NodeLost
from exo_lite.domain.ids import Epoch, ModelId, NodeId, RequestId
from exo_lite.domain.keep_alive import FOR_EVER
from exo_lite.domain.pipeline import ConnectOrder
from exo_lite.domain.placement import Departure, Instance, InstanceState, ModelDescription, Placement
from exo_lite.domain.plan import LoadOptions, LoadWish, NodeOffer, Plan, Refusal
from exo_lite.domain.request import GenerateRequest, Sampling, Token
from exo_lite.node.cluster import Cluster
from exo_lite.node.decisions import Action, GiveUp, Leave, PlaceAnew, WarmUp, connect_orders, next_actions, offers
from exo_lite.node.room import Room, find_room
from exo_lite.node.supervisor import Supervisor

log = logging.getLogger(__name__)

WARM_UP_TIMEOUT_S = 60.0
MAX_WORKER_FAILURES = 3
"""Within FAILURE_WINDOW_S, after which an instance is given up."""
FAILURE_WINDOW_S = 120.0
UNTOLD_FOR_S = 0.5
"""After a warm-up that failed: if a worker is gone, its daemon tells of it in that time, and that is the reason."""
SAME_FAILURE_S = 5.0
"""A worker that hangs or dies is told of by its neighbours before its own daemon knows, and breaks the next try too."""
MAX_DEPARTURES = 8
"""That a placement remembers."""

ConnectShard = Callable[[NodeId, ConnectOrder], Awaitable[None]]
Generate = Callable[[Instance, GenerateRequest], AsyncGenerator[Token, None]]


class PlacementController:
    """Runs as one task on every node, and acts only on the leader."""

    def __init__(
        self,
        cluster: Cluster,
        connect_shard: ConnectShard,
        generate: Generate,
        *,
        is_up_to_date: Callable[[], bool] = lambda: True,
        clock: Callable[[], float] = time.monotonic,
        supervisor: Supervisor | None = None,
    ) -> None:
        self._cluster = cluster
        self._supervisor = supervisor or Supervisor()
        self._connect_shard = connect_shard
        self._generate = generate
        self._is_up_to_date = is_up_to_date
        self._clock = clock
        self._under_way: set[Action] = set()
        self._failures: dict[ModelId, deque[float]] = defaultdict(deque)
        self._failed_on: dict[ModelId, frozenset[NodeId]] = {}
        """The living nodes when a model was given up."""

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
        """Place a model, or return it as it is where it already runs as wished. Raises ModelDoesNotFit.

        Idle models leave where it needs their room; none does where that would not be enough.
        """
        existing = self._instance(model.model_id)
        is_any_good = wish.is_on_demand and existing is not None
        options = existing.options if existing is not None and is_any_good else wish.resolve(model.spec)
        if existing is not None and existing.state != "failed" and existing.options == options:
            return self._keep(existing, wish)
        room = find_room(self._cluster.state, model, options)
        if isinstance(room, Refusal):
            raise ModelDoesNotFit(room.reason)
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
        room = find_room(self._cluster.state, model, options)
        return room if isinstance(room, Refusal) else room.plan

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
        staying = [one for one in self._instances() if one.model_id != model_id]
        self._publish(staying, epoch, [Departure(model_id, epoch, text)])

    def _act(self, tasks: asyncio.TaskGroup, action: Action) -> None:
        if action in self._under_way or not self._is_current(action):
            return
        match action:
            case Leave(model_id, _, reason):
                self._remove(model_id, f"{model_id} left: {reason}")
            case GiveUp(model_id, _, reason):
                self._give_up(model_id, reason)
            case PlaceAnew(model_id, _, reason, is_loss):
                self._place_anew(model_id, reason, is_loss=is_loss)
            case WarmUp():
                self._under_way.add(action)
                tasks.create_task(self._supervisor.contain(f"warming up {action.model_id}", self._warm_up(action)))

    def _place_anew(self, model_id: ModelId, reason: str, *, is_loss: bool) -> None:
        instance = self._instance(model_id)
        if instance is None:
            return
        if not is_loss and self._fails_too_often(model_id):
            self._give_up(model_id, f"{MAX_WORKER_FAILURES} failures in a row, the last: {reason}")
            return
        model = ModelDescription(model_id, instance.fingerprint, instance.spec)
        room = find_room(self._cluster.state, model, instance.options)
        if isinstance(room, Refusal):
            self._give_up(model_id, f"{reason}; {room.reason}")
        else:
            self._publish_plan(model, room, reason, instance.keep_alive_s)

    def _give_up(self, model_id: ModelId, reason: str) -> None:
        self._failed_on[model_id] = frozenset(self._cluster.state.living)
        self._set_state(model_id, "failed", reason)

    def _retry_failed(self) -> None:
        """A failed model gets another try when the nodes are others than at its failure, or the leader is."""
        living = frozenset(self._cluster.state.living)
        for instance in self._instances():
            if instance.state == "failed" and self._failed_on.get(instance.model_id) != living:
                self._failed_on[instance.model_id] = living
                with self._supervisor.containing(f"placing {instance.model_id}"):
                    self._place_anew(instance.model_id, "the nodes changed", is_loss=True)

    def _fails_too_often(self, model_id: ModelId) -> bool:
        failures, now_s = self._failures[model_id], self._clock()
        if not failures or now_s - failures[-1] > SAME_FAILURE_S:
            failures.append(now_s)
        while failures[0] < now_s - FAILURE_WINDOW_S:
            failures.popleft()
        return len(failures) >= MAX_WORKER_FAILURES

    async def _warm_up(self, action: WarmUp) -> None:
        """Join the workers and send one real token through every hop: the proof behind `ready`."""
        try:
            instance = self._set_state(action.model_id, "warming")
            async with asyncio.timeout(WARM_UP_TIMEOUT_S):
                for node_id, order in connect_orders(self._cluster.state, instance):
                    await self._connect_shard(node_id, order)
                await self._send_token(instance)
        except TimeoutError:
            await self._note_warm_up_failure(action, f"no token came through within {WARM_UP_TIMEOUT_S:.0f} s")
        except ExoLiteError as error:
            await self._note_warm_up_failure(action, str(error))
        except Exception as error:  # a task's top
            self._supervisor.note(f"warming up {action.model_id}", error)
            await self._note_warm_up_failure(action, f"{type(error).__name__}: {error}")
        else:
            if self._is_current(action):
                self._failures.pop(action.model_id, None)
                self._set_state(action.model_id, "ready")
        finally:
            self._under_way.discard(action)

    async def _send_token(self, instance: Instance) -> None:
        request = GenerateRequest(
            request_id=RequestId(f"warm-up-{instance.epoch}"),
            model_id=instance.model_id,
            epoch=instance.epoch,
            attempt=0,
            token_ids=(0,),
            max_tokens=1,
            sampling=Sampling(temperature=0.0),
        )
        async with aclosing(self._generate(instance, request)) as tokens:
            async for _ in tokens:
                return
        raise NodeLost(f"{instance.assignments[0].name} ended the answer without a token")

    async def _note_warm_up_failure(self, action: WarmUp, reason: str) -> None:
        await asyncio.sleep(UNTOLD_FOR_S)
        if self._is_current(action):
            self._place_anew(action.model_id, f"warming up failed: {reason}", is_loss=False)

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

    def _set_state(self, model_id: ModelId, state: InstanceState, reason: str | None = None) -> Instance:
        changed = [
            replace(one, state=state, reason=reason) if one.model_id == model_id else one for one in self._instances()
        ]
        self._publish(changed, self._cluster.state.epoch)
        return next(one for one in changed if one.model_id == model_id)

    def _publish(self, instances: list[Instance], epoch: Epoch, departures: Sequence[Departure] = ()) -> None:
        old = self._cluster.state.placement
        all_departures = (*(old.departures if old else ()), *departures)[-MAX_DEPARTURES:]
        revision = old.revision + 1 if old is not None and old.epoch == epoch else 0
        in_order = tuple(sorted(instances, key=lambda one: one.model_id))
        placement = Placement(self._cluster.state.self_id, epoch, revision, in_order, all_departures)
        self._cluster.apply(PlacementSeen(placement))


def _kept_s(existing: Instance | None, wish: LoadWish) -> float:
    """How long a model is kept from now on: a request does not unpin what somebody pinned."""
    if wish.keep_alive_s is None or (wish.is_on_demand and existing is not None and existing.is_pinned):
        return FOR_EVER
    return wish.keep_alive_s
