"""The node as HTTP sees it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

from exo_lite.domain.cluster_document import ClusterDocument
from exo_lite.domain.errors import (
    ModelNotFound,
    NotReady,
)
from exo_lite.domain.ids import ModelId
from exo_lite.domain.keep_alive import DEFAULT_KEEP_ALIVE_S
from exo_lite.domain.load_options import LoadRequest
from exo_lite.domain.placement import Instance, ServedModel
from exo_lite.domain.plan import NodeOffer, Plan, Refusal
from exo_lite.domain.trace import TraceReport
from exo_lite.engine.table import footprints
from exo_lite.node.answers import Answers
from exo_lite.node.attempts import Attempts
from exo_lite.node.cluster import Cluster
from exo_lite.node.demand import Demand
from exo_lite.node.drivers import Drivers
from exo_lite.node.event_log import EventLog
from exo_lite.node.held_model import HeldModel
from exo_lite.node.leader import Leader
from exo_lite.node.membership import Membership
from exo_lite.node.model_descriptions import ModelDescriptions
from exo_lite.node.model_list import ModelList
from exo_lite.node.model_names import find_model_id, model_not_found
from exo_lite.node.model_texts import ModelTexts
from exo_lite.node.orders import Orders
from exo_lite.node.request_counts import RequestCounts
from exo_lite.node.state_document import state_document
from exo_lite.planning.plan import plan

PROOF_IS_FRESH_S = 10.0


class HttpFace:
    """Fits api.daemon_api.DaemonApi. Orders about placement go to the leader, wherever it is."""

    def __init__(
        self,
        cluster: Cluster,
        *,
        events: EventLog,
        membership: Membership,
        leader: Leader,
        orders: Orders,
        counts: RequestCounts,
        demand: Demand,
        drivers: Drivers,
        attempts: Attempts,
        descriptions: ModelDescriptions,
        texts: ModelTexts,
        keep_alive_s: float = DEFAULT_KEEP_ALIVE_S,
    ) -> None:
        self._cluster = cluster
        self._events = events
        self._membership = membership
        self._leader = leader
        self._orders = orders
        self._counts = counts
        self._demand = demand
        self._drivers = drivers
        self._answers = Answers(attempts, demand.ready)
        self._descriptions = descriptions
        self._texts = texts
        self._keep_alive_s = keep_alive_s
        self._models = ModelList(cluster, descriptions.find)
        self._is_draining = False

    def drain(self) -> None:
        """Take no more requests."""
        self._is_draining = True

    def state(self) -> ClusterDocument:
        return state_document(
            self._cluster.state, self._events, self._membership.now(), unreached=self._membership.meetings.unreached()
        )

    async def changes(self) -> AsyncGenerator[None, None]:
        async for _ in self._cluster.states(at_least_every_s=1.0):
            if self._is_draining:
                return
            yield

    def not_ready_reason(self) -> str | None:
        if self._is_draining:
            return "this node is shutting down"
        reasons = [self._model_not_ready_reason(instance) for instance in self._cluster.state.instances]
        if not reasons:
            return "no model is loaded: `exo-lite load MODEL`"
        return None if None in reasons else "; ".join(reason for reason in reasons if reason)

    def _model_not_ready_reason(self, instance: Instance) -> str | None:
        if instance.state != "ready":
            return instance.condition
        proof_age_s = self._drivers.proof_age_s(instance)
        if proof_age_s is None or proof_age_s > PROOF_IS_FRESH_S:
            return f"{instance.model_id}: nothing has passed through all of its nodes for {PROOF_IS_FRESH_S:.0f} s"
        return None

    async def load(self, model: str, request: LoadRequest) -> Instance:
        if request.is_on_demand and request.keep_alive_s is None:
            request = replace(request, keep_alive_s=self._keep_alive_s)
        return await self._orders.place(self._model_id(model), request)

    async def unload(self, model: str) -> None:
        await self._orders.unplace(self._model_id(model))

    async def plan(self, model: str, request: LoadRequest, offers: Sequence[NodeOffer] | None) -> Plan | Refusal:
        model_id = self._model_id(model)
        if offers is None and (description := await self._descriptions.find(model_id)) is not None:
            return self._leader.plan(description, request.resolve(description.spec))
        spec = await self._descriptions.spec(model_id)
        room = self._leader.offers(model_id) if offers is None else offers  # whoever is to have the files
        options = request.resolve(spec)
        return plan(model_id, spec.n_layers, options, room, footprints(spec, options))

    async def models(self) -> Sequence[ServedModel]:
        return await self._models.all()

    async def model(self, name: str) -> ServedModel:
        model = await self._models.find(self._model_id(name))
        if model is None:
            raise self._not_found(name)
        return model

    @asynccontextmanager
    async def serve(self, model: str, keep_alive_s: float | None = None) -> AsyncGenerator[HeldModel]:
        """Loads it if need be. Raises ModelNotFound, ModelDoesNotFit, NotReady, and what reading its files raises."""
        if self._is_draining:
            raise NotReady("this node is shutting down: use another node")
        model_id = self._model_id(model)
        if self._cluster.state.instance_of(model_id) is None and model_id not in self._cluster.state.held_models:
            await self._descriptions.look(model_id)
            if model_id not in self._cluster.state.held_models:
                raise self._not_found(model_id)
        with self._counts.hold(model_id):
            instance = await self._demand.ready(model_id, keep_alive_s)
            yield HeldModel(instance, await self._texts.text(instance), self._answers.answer)

    async def traces(self, model: str) -> TraceReport:
        return await self._drivers.traces(self._model_id(model))

    def _model_id(self, name: str) -> ModelId:
        """Raises ModelNotFound for what can be no model's name."""
        return find_model_id(name, self._cluster.state.held_models)

    def _not_found(self, name: str) -> ModelNotFound:
        return model_not_found(name, self._cluster.state.held_models)
