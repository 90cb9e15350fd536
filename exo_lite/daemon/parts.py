"""One node's parts, built in an order in which each knows only those before it, and run as its tasks."""

from __future__ import annotations

import asyncio

from exo_lite.daemon.machine import Machine
from exo_lite.domain.cluster_events import PlacementSeen
from exo_lite.domain.cluster_state import ClusterState
from exo_lite.domain.node import MemoryUse, NodeIdentity, NodeStatus
from exo_lite.node.attempts import Attempts
from exo_lite.node.cluster import Cluster
from exo_lite.node.demand import Demand
from exo_lite.node.drivers import Drivers
from exo_lite.node.event_log import EventLog
from exo_lite.node.http_face import HttpFace
from exo_lite.node.joining import Joiner
from exo_lite.node.leader import Leader
from exo_lite.node.membership import Membership
from exo_lite.node.model_descriptions import ModelDescriptions
from exo_lite.node.model_files import ModelFiles
from exo_lite.node.model_search import ModelSearch
from exo_lite.node.model_texts import ModelTexts
from exo_lite.node.node_config import NodeConfig
from exo_lite.node.orders import Orders
from exo_lite.node.own_engine import OwnEngine
from exo_lite.node.own_status import OwnStatus, is_urgent
from exo_lite.node.pinned_models import PinnedModels
from exo_lite.node.presence import Presence
from exo_lite.node.proving import Prover
from exo_lite.node.request_counts import RequestCounts
from exo_lite.node.shards import ShardHost
from exo_lite.node.supervisor import Supervisor
from exo_lite.store.model_store import ModelStore
from exo_lite.transport.node_server import NodeHandlers


class Daemon:
    """One node, on a machine or a simulated one. `handlers` are for other nodes, `service` is for HTTP."""

    def __init__(self, config: NodeConfig, identity: NodeIdentity, machine: Machine) -> None:
        peers, clock, binding = machine.peers, machine.clock, machine.binding
        self.supervisor = supervisor = Supervisor(clock)
        self.events = events = EventLog(clock)
        memory = MemoryUse(machine.read_offer().memory_bytes)
        status = NodeStatus(identity, sequence=0, device=machine.device, memory=memory, engine=machine.engine)
        self.cluster = cluster = Cluster(ClusterState(status))
        cluster.listen(supervisor.contained("the event log", events.record_change))

        # The other nodes.
        self.membership = membership = Membership(
            cluster, events, peers, clock, supervisor, addresses=config.peers, worker_ports=config.worker_ports
        )
        cluster.listen(supervisor.contained("telling the others", self._tell_others))
        self._presence = Presence(binding, machine.port, membership, events, identity=lambda: cluster.state.identity)
        self._has_mdns = config.mdns

        # What this node holds, and says of itself.
        store = ModelStore(config.models_dir)
        counts = RequestCounts(cluster)
        self._shards = ShardHost(
            cluster,
            store,
            machine.start_worker,
            device=machine.device_name,
            binding=binding,
            worker_ports=config.worker_ports,
            log_format=config.log_format,
            cores_may_sleep=config.cores_may_sleep,
            hang_timeout_s=config.hang_timeout_s,
            supervisor=supervisor,
        )
        self._own_status = OwnStatus(
            cluster,
            events,
            supervisor,
            shards=self._shards,
            counts=counts,
            model_files=ModelFiles(store, events),
            read_offer=machine.read_offer,
        )
        self._own_engine = OwnEngine(cluster, machine.try_engine)

        # Placement.
        search = ModelSearch(cluster, peers, membership.heartbeats, self._own_status.look)
        descriptions = ModelDescriptions(cluster, peers, store, search)
        joiner = Joiner(cluster, peers, self._shards.worker_of)
        self._drivers = drivers = Drivers(cluster, peers, binding.own_host)
        self._attempts = attempts = Attempts(cluster, peers, drivers)
        prover = Prover(cluster, joiner.join, attempts.tokens)
        self._leader = leader = Leader(
            cluster, prover.prove, clock, supervisor, is_up_to_date=lambda: membership.is_up_to_date
        )
        orders = Orders(cluster, peers, membership.meetings, leader, descriptions)
        self._pinned_models = PinnedModels(cluster, config.data_dir, config.cluster, events)

        # The faces.
        self.service = HttpFace(
            cluster,
            events=events,
            membership=membership,
            leader=leader,
            orders=orders,
            counts=counts,
            demand=Demand(cluster, orders.place, keep_alive_s=config.keep_alive_s),
            drivers=drivers,
            attempts=attempts,
            descriptions=descriptions,
            texts=ModelTexts(cluster, store),
            keep_alive_s=config.keep_alive_s,
        )
        self.handlers = NodeHandlers(
            identity=lambda: cluster.state.identity,
            membership=membership,
            meetings=membership.meetings,
            heartbeats=membership.heartbeats,
            descriptions=descriptions,
            orders=orders,
            joiner=joiner,
            attempts=attempts,
        )

    async def run(self) -> None:
        """Run until cancelled, then end the workers."""
        self.cluster.apply(PlacementSeen(await asyncio.to_thread(self._pinned_models.read)))
        try:
            async with asyncio.TaskGroup() as tasks:
                discovery = [("mDNS", self._presence.announce)] if self._has_mdns else []
                for what, work in (
                    ("this node's status", self._own_status.run),
                    ("this node's engine", self._own_engine.run),
                    ("membership", self.membership.run),
                    ("this node's addresses", self._presence.watch),
                    *discovery,
                    ("the node's workers", self._shards.run),
                    ("placement", self._leader.run),
                    ("answers under way", self._attempts.run),
                    ("the file of pinned models", self._pinned_models.keep),
                ):
                    tasks.create_task(self.supervisor.keep(what, work))
        finally:
            await self._drivers.close()

    def _tell_others(self, before: ClusterState, after: ClusterState) -> None:
        """A placement, or what the leader waits for, does not wait for the next heartbeat."""
        if before.written != after.written or is_urgent(before.self_status, after.self_status):
            self.membership.heartbeats.kick()
