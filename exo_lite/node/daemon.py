"""The daemon: everything that one machine runs, built and joined here."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

import grpc

from exo_lite import __version__
from exo_lite.domain.clock import Clock
from exo_lite.domain.cluster_events import PlacementSeen, SelfChanged
from exo_lite.domain.cluster_state import ClusterState
from exo_lite.domain.credentials import Credentials
from exo_lite.domain.errors import NodeLost, PortInUse
from exo_lite.domain.heartbeat import Heartbeat
from exo_lite.domain.ids import BootId, Epoch, ModelId, NodeId
from exo_lite.domain.links import next_hop
from exo_lite.domain.node import PROTOCOL_VERSION, Device, MemoryUse, NodeIdentity, NodeStatus
from exo_lite.domain.pipeline import ConnectOrder
from exo_lite.domain.placement import Instance, ModelDescription
from exo_lite.domain.plan import LoadWish
from exo_lite.domain.request import GenerateRequest, Token
from exo_lite.domain.units import format_bytes
from exo_lite.domain.worker import WorkerConfig
from exo_lite.node.attempts import Attempts
from exo_lite.node.cluster import Cluster
from exo_lite.node.config import DEFAULT_PORT, NodeConfig
from exo_lite.node.data_folder import DataFolder, new_boot_id
from exo_lite.node.descriptors import max_peer_connections
from exo_lite.node.events import EventLog
from exo_lite.node.heads import Heads
from exo_lite.node.leader import Leader
from exo_lite.node.machine import default_name, find_device, torch_device
from exo_lite.node.membership import HEARTBEAT_EVERY_S, Membership
from exo_lite.node.model_files import ModelFiles
from exo_lite.node.model_search import ModelSearch
from exo_lite.node.network import Binding, find_binding, usable_hosts
from exo_lite.node.offer import MachineOffer, Offer
from exo_lite.node.peers import Peers
from exo_lite.node.presence import Presence
from exo_lite.node.proving import Prover
from exo_lite.node.service import NodeService
from exo_lite.node.shards import ShardHost, StartWorker
from exo_lite.node.supervisor import Supervisor
from exo_lite.node.system_clock import SystemClock
from exo_lite.node.wishes import Wishes
from exo_lite.node.worker_process import WorkerProcess
from exo_lite.store.model_store import ModelStore
from exo_lite.transport.node_server import serve_node
from exo_lite.transport.peers import GrpcPeers

log = logging.getLogger(__name__)

CONNECT_TIMEOUT_S = 15.0
NUM_PORTS_TO_TRY = 20


@dataclass(frozen=True, slots=True)
class Machine:
    """What a daemon stands on. With peers in memory and a clock that jumps, it is a simulated node."""

    device: Device
    binding: Binding
    port: int
    read_offer: Callable[[], Offer]
    peers: Peers
    clock: Clock
    start_worker: StartWorker


class Daemon:
    """One node. Handles the calls of NodeServicer; `service` is its side towards HTTP."""

    def __init__(
        self,
        config: NodeConfig,
        identity: NodeIdentity,
        machine: Machine,
    ) -> None:
        peers, clock = machine.peers, machine.clock
        self._peers = peers
        self._store = ModelStore(config.models_dir)
        self.supervisor = Supervisor(clock)
        self._known_models: dict[ModelId, str] = {}
        self._looking = asyncio.Lock()
        self._offer_warning: str | None = None
        self._events = EventLog(clock)
        self._model_files = ModelFiles(self._store, self._events)
        self._read_offer = machine.read_offer
        status = NodeStatus(
            identity, sequence=0, device=machine.device, memory=MemoryUse(self._read_offer().memory_bytes)
        )
        self._cluster = Cluster(ClusterState(status))
        self._cluster.listen(self.supervisor.contained("the event log", self._events.record_change))
        self._cluster.listen(self.supervisor.contained("telling the others", self._tell_others))
        self._wishes = Wishes(self._cluster, config.data_dir, config.cluster, self._events)
        self._membership = Membership(
            self._cluster,
            self._events,
            peers,
            clock,
            self.supervisor,
            addresses=config.peers,
            worker_ports=config.worker_ports,
        )
        self._presence = Presence(machine.binding, machine.port, self._membership, self._events, identity=self.identity)
        self._has_mdns = config.mdns
        self._shards = ShardHost(
            self._cluster,
            self._store,
            peers,
            machine.start_worker,
            torch_device=torch_device(config.device, machine.device),
            binding=machine.binding,
            worker_ports=config.worker_ports,
            log_format=config.log_format,
            cores_may_sleep=config.cores_may_sleep,
            hang_timeout_s=config.hang_timeout_s,
            supervisor=self.supervisor,
        )
        self._heads = Heads(self._cluster, peers, machine.binding.own_host)
        self._attempts = Attempts(self._cluster, peers, self._heads)
        self._leader = Leader(
            self._cluster,
            Prover(self._cluster, self._connect_shard, self._attempts.tokens).prove,
            clock,
            self.supervisor,
            is_up_to_date=lambda: self._membership.is_up_to_date,
        )
        self.service = NodeService(
            self._cluster,
            peers=peers,
            events=self._events,
            membership=self._membership,
            leader=self._leader,
            heads=self._heads,
            attempts=self._attempts,
            store=self._store,
            keep_alive_s=config.keep_alive_s,
            on_demand=self._tell_of_demand,
            search=ModelSearch(self._cluster, peers, self._membership, self._look_at_models),
        )

    async def run(self) -> None:
        """Until cancelled, which says goodbye to the others and ends the workers."""
        self._cluster.apply(PlacementSeen(await asyncio.to_thread(self._wishes.read)))
        try:
            async with asyncio.TaskGroup() as tasks:
                discovery = [("mDNS", self._presence.announce)] if self._has_mdns else []
                for what, work in (
                    ("this node's status", self._publish_status),
                    ("membership", self._membership.run),
                    ("this node's addresses", self._presence.watch),
                    *discovery,
                    ("the node's workers", self._shards.run),
                    ("placement", self._leader.run),
                    ("answers under way", self._attempts.run),
                    ("the file of wishes", self._wishes.keep),
                ):
                    tasks.create_task(self.supervisor.keep(what, work))
        finally:
            await self._heads.close()

    async def leave(self) -> None:
        await self._membership.leave()

    def on_address(self, address: str) -> None:
        self._membership.meetings.suggest(address)

    def note(self, kind: str, text: str, fix: str | None = None) -> None:
        self._events.add(kind, text, fix)

    # NodeHandler

    def identity(self) -> NodeIdentity:
        return self._cluster.state.self_status.identity

    async def on_handshake(self, status: NodeStatus, seen_from: str | None) -> NodeStatus:
        return await self._membership.on_handshake(status, seen_from)

    def on_refused(self, reason: str, seen_from: str | None) -> None:
        self._membership.meetings.on_refused(reason, seen_from)

    def on_heartbeat(self, heartbeat: Heartbeat) -> Heartbeat:
        return self._membership.on_heartbeat(heartbeat)

    async def on_probe(self, node_id: NodeId) -> bool:
        return await self._membership.on_probe(node_id)

    def on_leave(self, node_id: NodeId, boot_id: BootId) -> None:
        self._membership.on_leave(node_id, boot_id)

    async def on_describe_model(self, model_id: ModelId) -> ModelDescription:
        """Who asks wants to know now: what this node tells of its models is made true first."""
        await self._look_at_models()
        return await self.service.describe_model(model_id)

    async def on_place(self, model_id: ModelId, wish: LoadWish) -> Instance:
        return await self.service.place(model_id, wish)

    async def on_unplace(self, model_id: ModelId) -> None:
        await self.service.unplace(model_id)

    async def on_connect_shard(self, node_id: NodeId | None, order: ConnectOrder) -> None:
        await self._connect_shard(node_id or self._cluster.state.self_id, order)

    def on_relay(self, request: GenerateRequest, num_relays: int) -> AsyncGenerator[Token, None]:
        return self._attempts.relay(request, num_relays)

    # What the parts need of each other.

    async def _connect_shard(self, node_id: NodeId, order: ConnectOrder) -> None:
        if node_id == self._cluster.state.self_id:
            await self._shards.connect(order)
            return
        state = self._cluster.state
        member = state.members.get(next_hop(state, node_id) or node_id)
        if member is None or member.state == "dead":
            raise NodeLost(f"node {node_id} is gone")
        async with self._peers.node(member.address) as client:
            await client.connect_shard(node_id, order, timeout_s=CONNECT_TIMEOUT_S)

    def _tell_others(self, before: ClusterState, after: ClusterState) -> None:
        """A placement, or what the leader waits for, does not wait for the next heartbeat."""
        shards_changed = _shard_states(before.self_status) != _shard_states(after.self_status)
        demand_changed = before.self_status.num_requests.keys() != after.self_status.num_requests.keys()
        if before.written != after.written or shards_changed or demand_changed:
            self._membership.kick()

    def _tell_of_demand(self) -> None:
        """At once: the leader lets no model leave that somebody has asked for, and others once nobody does."""
        old = self._cluster.state.self_status
        news = replace(old, sequence=old.sequence + 1, num_requests=self.service.num_requests)
        self._cluster.apply(SelfChanged(news))

    async def _publish_status(self) -> None:
        """Keep this node's own status in the state true."""
        while True:
            self._shards.changed.clear()
            await self._look_at_models()
            try:
                async with asyncio.timeout(HEARTBEAT_EVERY_S):
                    await self._shards.changed.wait()
            except TimeoutError:
                continue

    async def _look_at_models(self) -> None:
        async with self._looking:  # an earlier look must not end after a later one
            with self.supervisor.containing("reading the models folder"):  # what it had last is still true
                self._known_models = await self._model_files.look()
            offered = await asyncio.to_thread(self._read_offer)
            self._note_offer(offered)
            self._cluster.apply(SelfChanged(self._current_status(self._known_models, offered)))

    def _note_offer(self, offered: Offer) -> None:
        """Tell of limits that somebody changed, and of memory that was asked for in vain."""
        old = self._cluster.state.self_status
        before = Offer(old.memory.limit_bytes, old.device.threads, self._offer_warning)
        if replace(offered, warning=None) != replace(before, warning=None):
            text = f"{old.identity.name} offers {format_bytes(offered.memory_bytes)} and {offered.threads} threads now"
            self._events.add("offer_changed", f"{text}, as its limits were changed")
        if offered.warning is not None and offered.warning != before.warning:
            self._events.add("memory_cap_too_high", offered.warning, "give less --memory, or raise the limit")
        self._offer_warning = offered.warning

    def _current_status(self, models: dict[ModelId, str], offered: Offer) -> NodeStatus:
        state = self._cluster.state
        old, shards = state.self_status, self._shards.statuses
        holding = [shard for shard in shards if shard.state != "lost"]
        memory = replace(
            old.memory,
            limit_bytes=offered.memory_bytes,
            weights_bytes=sum(shard.weight_bytes for shard in holding),
            kv_cache_bytes=sum(shard.kv_cache_bytes for shard in holding),
            working_bytes=sum(shard.working_bytes for shard in holding),
        )
        return replace(
            old,
            sequence=old.sequence + 1,
            device=replace(old.device, threads=offered.threads),
            memory=memory,
            shards=shards,
            models=models,
            num_requests=self.service.num_requests,
        )


def _shard_states(status: NodeStatus) -> list[object]:
    return [(shard.shard, shard.assigned_epoch, shard.state, shard.worker_port, shard.error) for shard in status.shards]


@asynccontextmanager
async def start_daemon(config: NodeConfig, folder: DataFolder, http_address: str) -> AsyncIterator[Daemon]:
    """A daemon that answers its peers. Leaving says goodbye. Raises StartupError."""
    offer = await asyncio.to_thread(MachineOffer, config.memory_bytes, config.threads)
    device = await asyncio.to_thread(find_device, config.device, offer.read().threads)
    binding = await asyncio.to_thread(find_binding, config.host, config.advertise)
    credentials = Credentials()
    peers = GrpcPeers(credentials, hang_timeout_s=config.hang_timeout_s)
    server = peers.node_server(max_connections=max_peer_connections())
    port = _bind_grpc(peers, server, binding.host, config.port)
    hosts = await asyncio.to_thread(usable_hosts)

    def start_worker(
        worker: WorkerConfig, fingerprint: str, epoch: Epoch, on_change: Callable[[], None]
    ) -> WorkerProcess:
        worker = replace(worker, credentials=credentials)
        return WorkerProcess(worker, fingerprint, epoch, on_change, peers, own_host=binding.own_host)

    identity = NodeIdentity(
        node_id=folder.node_id(),
        boot_id=new_boot_id(),
        name=config.name or default_name(),
        cluster=config.cluster,
        version=__version__,
        protocol_version=PROTOCOL_VERSION,
        addresses=binding.addresses(port, hosts),
        http_address=http_address,
    )
    machine = Machine(device, binding, port, offer.read, peers, SystemClock(), start_worker)
    daemon = Daemon(config, identity, machine)
    serve_node(server, daemon)
    await server.start()
    if config.port is None and port != DEFAULT_PORT:
        daemon.note("port_moved", f"port {DEFAULT_PORT} is in use: gRPC listens on {identity.address} instead")
    try:
        async with asyncio.TaskGroup() as tasks:  # a daemon that fails in one part ends as a whole
            running = tasks.create_task(daemon.run())
            yield daemon
            await daemon.leave()
            running.cancel()
    finally:
        await server.stop(grace=1.0)


def _bind_grpc(peers: GrpcPeers, server: grpc.aio.Server, host: str, port: int | None) -> int:
    if port is not None:
        return peers.bind(server, host, port)
    for candidate in range(DEFAULT_PORT, DEFAULT_PORT + NUM_PORTS_TO_TRY):
        try:
            return peers.bind(server, host, candidate)
        except PortInUse:
            continue
    raise PortInUse(f"ports {DEFAULT_PORT} to {DEFAULT_PORT + NUM_PORTS_TO_TRY - 1} of {host} are in use: give --port")
