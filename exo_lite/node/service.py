"""What HTTP asks of the daemon."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from difflib import get_close_matches
from typing import TypeVar

from exo_lite.catalog.table import load_table
from exo_lite.domain.cluster_events import DEAD_AFTER_S
from exo_lite.domain.errors import (
    ExoLiteError,
    InvalidModel,
    InvalidRequest,
    ModelNotFound,
    NodeLost,
    NotReady,
    StorageError,
)
from exo_lite.domain.heartbeat import Heartbeat
from exo_lite.domain.ids import ModelId, NodeId
from exo_lite.domain.keep_alive import DEFAULT_KEEP_ALIVE_S
from exo_lite.domain.links import next_hop
from exo_lite.domain.model_spec import ModelSpec
from exo_lite.domain.placement import Instance, ModelDescription, ServedModel
from exo_lite.domain.plan import LoadWish, NodeOffer, Plan, Refusal
from exo_lite.domain.trace import TraceReport
from exo_lite.node.answers import Answers
from exo_lite.node.attempts import Attempts
from exo_lite.node.cluster import Cluster
from exo_lite.node.demand import Demand
from exo_lite.node.events import EventLog
from exo_lite.node.heads import Heads
from exo_lite.node.held_model import HeldModel
from exo_lite.node.leader import Leader
from exo_lite.node.membership import Membership
from exo_lite.node.model_list import ModelList
from exo_lite.node.model_search import ModelSearch
from exo_lite.node.peers import PeerNode, Peers
from exo_lite.node.served_text import ServedText
from exo_lite.node.state_document import state_document
from exo_lite.planning.plan import plan
from exo_lite.store.manifest import MANIFEST_FILE
from exo_lite.store.model_store import ModelStore
from exo_lite.store.stored_model import StoredModel

T = TypeVar("T")

PROOF_IS_FRESH_S = 10.0
ORDER_TIMEOUT_S = 10.0
DESCRIBE_TIMEOUT_S = 5.0
LOSS_IS_NOTICED_WITHIN_S = DEAD_AFTER_S + 1.0
MAX_NAME_CHARS = 96
"""Of a model's name in an error."""


class NodeService:
    """Fits api.daemon_api.DaemonApi. Orders about placement go to the leader, wherever it is."""

    def __init__(
        self,
        cluster: Cluster,
        *,
        peers: Peers,
        events: EventLog,
        membership: Membership,
        leader: Leader,
        heads: Heads,
        attempts: Attempts,
        store: ModelStore,
        keep_alive_s: float = DEFAULT_KEEP_ALIVE_S,
        on_demand: Callable[[], None] = lambda: None,
        search: ModelSearch | None = None,
    ) -> None:
        self._cluster = cluster
        self._peers = peers
        self._events = events
        self._membership = membership
        self._leader = leader
        self._heads = heads
        self._store = store
        self._texts: dict[tuple[ModelId, str, int], ServedText] = {}
        self._keep_alive_s = keep_alive_s
        self._demand = Demand(cluster, self.place, keep_alive_s=keep_alive_s, on_change=on_demand)
        self._answers = Answers(attempts, self._demand.ready)
        self._search = search or ModelSearch(cluster, peers, membership)
        self._models = ModelList(cluster, self._find_description)
        self._is_draining = False

    def drain(self) -> None:
        """Take no more requests."""
        self._is_draining = True

    def state(self) -> Mapping[str, object]:
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
            return f"{instance.model_id} is {instance.state}" + (f": {instance.reason}" if instance.reason else "")
        proof_age_s = self._heads.proof_age_s(instance)
        if proof_age_s is None or proof_age_s > PROOF_IS_FRESH_S:
            return f"{instance.model_id}: nothing has gone through every hop for {PROOF_IS_FRESH_S:.0f} s"
        return None

    @property
    def num_requests(self) -> Mapping[ModelId, int]:
        """That entered here and are under way, by model."""
        return self._demand.num_requests

    async def load(self, model: str, wish: LoadWish) -> Instance:
        if wish.is_on_demand and wish.keep_alive_s is None:
            wish = replace(wish, keep_alive_s=self._keep_alive_s)
        return await self.place(self._model_id(model), wish)

    async def unload(self, model: str) -> None:
        await self.unplace(self._model_id(model))

    async def place(self, model_id: ModelId, wish: LoadWish) -> Instance:
        """As the leader, or through it. Raises ModelNotFound, ModelDoesNotFit, InvalidRequest, NodeLost."""

        async def here() -> Instance:
            description = await self._describe(model_id)
            await self._search.look(model_id, description.fingerprint)
            return self._leader.place(description, wish)

        async def there(leader: PeerNode) -> Instance:
            with suppress(ExoLiteError):  # it is to know whom this node knows, and what nobody here needs any more
                await leader.heartbeat(Heartbeat(self._cluster.state.self_status), timeout_s=ORDER_TIMEOUT_S)
            return await leader.place(model_id, wish, timeout_s=ORDER_TIMEOUT_S)

        await self._membership.meetings.meet()  # the newest node counts too, and may be the one that leads
        return await self._order(here, there)

    async def unplace(self, model_id: ModelId) -> None:
        """As the leader, or through it. Raises ModelNotFound, NodeLost."""

        async def here() -> None:
            self._leader.unplace(model_id)

        await self._order(here, lambda leader: leader.unplace(model_id, timeout_s=ORDER_TIMEOUT_S))

    async def _order(self, here: Callable[[], Awaitable[T]], there: Callable[[PeerNode], Awaitable[T]]) -> T:
        """Given to the leader, be it this node, or to one on the way there; where the leader is lost, to the next one.

        Raises NodeLost.
        """
        while not self._cluster.state.is_leader:
            state = self._cluster.state
            nearer = state.members[next_hop(state, state.leader) or state.leader]
            try:
                async with self._peers.node(nearer.address) as client:
                    return await there(client)
            except NodeLost:
                if not await self._is_succeeded(state.leader):
                    raise
        return await here()

    async def _is_succeeded(self, leader: NodeId) -> bool:
        """Whether another node leads, once this one should have noticed."""
        try:
            async with asyncio.timeout(LOSS_IS_NOTICED_WITHIN_S):
                await self._cluster.wait_for(lambda state: None if state.leader == leader else state.leader)
        except TimeoutError:
            return False
        return True

    async def plan(self, model: str, wish: LoadWish, offers: Sequence[NodeOffer] | None) -> Plan | Refusal:
        model_id = self._model_id(model)
        if offers is None and (description := await self._find_description(model_id)) is not None:
            return self._leader.plan(description, wish.resolve(description.spec))
        spec = await self._spec(model_id)
        room = self._leader.offers(model_id) if offers is None else offers  # whoever is to have the files
        return plan(model_id, spec, wish.resolve(spec), room)

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
            raise NotReady("this node is shutting down: ask another one")
        model_id = self._model_id(model)
        if not self._is_placed(model_id) and model_id not in self._held_models():
            await self._search.look(model_id)
            if model_id not in self._held_models():
                raise self._not_found(model_id)
        with self._demand.hold(model_id):
            instance = await self._demand.ready(model_id, keep_alive_s)
            yield HeldModel(instance, await self._text(instance), self._answers.answer)

    async def _text(self, instance: Instance) -> ServedText:
        model_id = instance.model_id
        key = (model_id, instance.fingerprint, instance.options.context_length)
        text = self._texts.get(key)
        if text is None:
            text = await asyncio.to_thread(self._read_text, instance)
            self._texts = {known: one for known, one in self._texts.items() if self._is_placed(known[0])} | {key: text}
        return text

    def _read_text(self, instance: Instance) -> ServedText:
        row = load_table().find(instance.model_id)
        return ServedText(
            self._stored(instance.model_id).path,
            instance.options.context_length,
            default_template=row.template_for(instance.spec) if row else None,
        )

    def _stored(self, model_id: ModelId) -> StoredModel:
        """Raises ModelNotFound without the store's words on where it looked: those are for this machine's user."""
        try:
            return self._store.get(model_id)
        except ModelNotFound as error:
            name = self._cluster.state.self_status.identity.name
            raise ModelNotFound(
                f"{name} has no files of {model_id}, with which prompts are read: import them there "
                f"(`exo-lite import PATH --as {model_id}`), or ask a node that has them"
            ) from error

    async def traces(self, model: str) -> TraceReport:
        return await self._heads.traces(self._model_id(model))

    async def describe_model(self, model_id: ModelId) -> ModelDescription:
        """From this node's own store. Raises ModelNotFound or InvalidModel."""
        return await asyncio.to_thread(self._read_description, model_id)

    def _read_description(self, model_id: ModelId) -> ModelDescription:
        stored = self._store.get(model_id)
        try:
            created = int((stored.path / MANIFEST_FILE).stat().st_mtime)
        except OSError as error:
            raise ModelNotFound(f"{model_id} is being removed from this node") from error
        return ModelDescription(model_id, stored.fingerprint, stored.spec, created)

    def _model_id(self, name: str) -> ModelId:
        """The id that a name or alias stands for. Raises ModelNotFound for what can be none."""
        try:
            return load_table().id_of(name)
        except InvalidRequest as error:
            raise self._not_found(name) from error

    def _is_placed(self, model_id: ModelId) -> bool:
        return self._cluster.state.instance_of(model_id) is not None

    def _held_models(self) -> set[ModelId]:
        """Those with their files on a living node."""
        return {model_id for status in self._cluster.state.living.values() for model_id in status.models}

    async def _describe(self, model_id: ModelId) -> ModelDescription:
        """Raises ModelNotFound where no living node has the model, InvalidModel where this one's is damaged."""
        description = await self._find_description(model_id)
        if description is not None:
            return description
        with suppress(ModelNotFound):
            return await self.describe_model(model_id)
        raise self._not_found(model_id)

    async def _find_description(self, model_id: ModelId) -> ModelDescription | None:
        """From this node's store, or the first living node's that has the model."""
        with suppress(InvalidRequest, ModelNotFound, InvalidModel, StorageError):  # another node's may be sound
            return await self.describe_model(model_id)
        if model_id not in self._held_models():
            await self._search.look(model_id)
        for member in self._cluster.state.members.values():
            if member.state == "dead" or model_id not in member.status.models:
                continue
            with suppress(ExoLiteError):  # another one may answer
                async with self._peers.node(member.address) as client:
                    return await client.describe_model(model_id, timeout_s=DESCRIBE_TIMEOUT_S)
        return None

    async def _spec(self, model_id: ModelId) -> ModelSpec:
        row = load_table().find(model_id)
        return row.spec if row else (await self._describe(model_id)).spec

    def _not_found(self, name: str) -> ModelNotFound:
        name = name[:MAX_NAME_CHARS]
        if load_table().find(name) is not None:
            return ModelNotFound(f"no node has the files of {name}: `exo-lite import PATH --as {name}`")
        close = dict.fromkeys([*get_close_matches(name, self._held_models()), *load_table().close_matches(name)])
        hint = f"did you mean {', '.join(close)}?" if close else "`exo-lite models` lists what there is"
        return ModelNotFound(f"there is no model {name!r}: {hint}")
