"""This node's workers: brought in line with the placement, whatever that takes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from exo_lite.domain.addresses import split_address
from exo_lite.domain.errors import NodeLost, NotReady
from exo_lite.domain.ids import Epoch, ModelId, NodeId
from exo_lite.domain.logs import LogFormat
from exo_lite.domain.node import ShardStatus
from exo_lite.domain.pipeline import ConnectOrder, Hop
from exo_lite.domain.placement import Instance, Placement
from exo_lite.domain.plan import Assignment
from exo_lite.domain.worker import WorkerConfig
from exo_lite.node.cluster import Cluster
from exo_lite.node.network import Binding
from exo_lite.node.peers import Peers
from exo_lite.node.supervisor import Supervisor
from exo_lite.store.model_store import ModelStore

log = logging.getLogger(__name__)

PORT_TIMEOUT_S = 2.0


class HeldWorker(Protocol):
    """One worker of this node: `worker_process.WorkerProcess` is the real one."""

    config: WorkerConfig
    fingerprint: str
    status: ShardStatus
    """Its newest word, or what is known of its end."""

    async def run(self) -> None:
        """From its start to its end. Cancelling ends it."""

    async def connect(self, order: ConnectOrder) -> None:
        """Raises NodeLost, NotReady or StaleEpoch."""

    def keep_for(self, epoch: Epoch) -> None:
        """The same shard serves a newer placement."""


StartWorker = Callable[[WorkerConfig, str, Epoch, Callable[[], None]], HeldWorker]
"""Of a configuration, the fingerprint of its files, an epoch, and what to call when its status changes."""


@dataclass(frozen=True, slots=True)
class _Held:
    process: HeldWorker
    task: asyncio.Task[None]


class ShardHost:
    """Runs as one task. A worker whose shard, options and files stay the same outlives a new placement."""

    def __init__(
        self,
        cluster: Cluster,
        store: ModelStore,
        peers: Peers,
        start_worker: StartWorker,
        *,
        torch_device: str,
        binding: Binding,
        worker_ports: tuple[int, int],
        log_format: LogFormat,
        cores_may_sleep: bool,
        hang_timeout_s: float,
        supervisor: Supervisor,
    ) -> None:
        self._cluster = cluster
        self._supervisor = supervisor
        self._store = store
        self._peers = peers
        self._start_worker = start_worker
        self._torch_device = torch_device
        self._binding = binding
        self._worker_ports = worker_ports
        self._log_format = log_format
        self._cores_may_sleep = cores_may_sleep
        self._hang_timeout_s = hang_timeout_s
        self._held: dict[ModelId, _Held] = {}
        self.changed = asyncio.Event()
        """Set when a worker's status changed; cleared by whoever publishes it."""

    @property
    def statuses(self) -> tuple[ShardStatus, ...]:
        return tuple(held.process.status for held in self._held.values())

    async def run(self) -> None:
        """Until cancelled, which ends every worker."""
        async with asyncio.TaskGroup() as tasks:
            await self._supervisor.keep("the node's workers", partial(self._keep_reconciling, tasks))

    async def connect(self, order: ConnectOrder) -> None:
        """Join a worker to its neighbours.

        Raises NotReady where there is none, PortSilent or another NodeLost that names the port of a neighbour that
        cannot be reached from here, or what the worker raises.
        """
        held = self._held.get(order.model_id)
        if held is None or held.process.status.assigned_epoch != order.epoch:
            raise NotReady(f"no worker here serves {order.model_id} in epoch {order.epoch} yet")
        routed = order.routed(self._host_of)
        await asyncio.gather(*(self._check(hop) for hop in routed.hops))
        await held.process.connect(routed)

    async def _check(self, hop: Hop) -> None:
        """A stream would say less of what is wrong, and later."""
        try:
            await self._peers.check_port(hop.address, timeout_s=PORT_TIMEOUT_S)
        except NodeLost as error:
            who = self._cluster.state.self_status.identity.name
            raise type(error)(f"{who} does not reach the worker on {hop.name}: {error}") from error

    def _host_of(self, node_id: NodeId) -> str:
        """Raises NodeLost for a node that this one has not met."""
        address = self._cluster.state.address_of(node_id)
        if address is None:
            raise NodeLost(f"{self._cluster.state.self_status.identity.name} has not met node {node_id}")
        return split_address(address)[0]

    async def _keep_reconciling(self, tasks: asyncio.TaskGroup) -> None:
        while True:
            changed = self._cluster.changed
            await self._reconcile(tasks)
            await changed.wait()

    async def _reconcile(self, tasks: asyncio.TaskGroup) -> None:
        wanted = self._wanted(self._cluster.state.placement)
        for model_id in [held for held in self._held if held not in wanted]:
            await self._stop(model_id)
        for model_id, (instance, assignment) in wanted.items():
            with self._supervisor.containing(f"the worker of {model_id}"):  # the others' workers are not to miss it
                await self._bring_in_line(tasks, instance, assignment)

    async def _bring_in_line(self, tasks: asyncio.TaskGroup, instance: Instance, assignment: Assignment) -> None:
        held = self._held.get(instance.model_id)
        is_same = held is not None and self._is_same_part(held.process, instance, assignment)
        if held is not None and held.process.status.assigned_epoch == instance.epoch and is_same:
            return
        if held is not None and self._still_serves(held.process, instance, assignment):
            held.process.keep_for(instance.epoch)
            return
        await self._stop(instance.model_id)
        self._start(tasks, instance, assignment)

    def _wanted(self, placement: Placement | None) -> dict[ModelId, tuple[Instance, Assignment]]:
        own_id = self._cluster.state.self_id
        if placement is None:
            return {}
        return {
            instance.model_id: (instance, assignment)
            for instance in (*placement.siblings, *placement.instances)  # the latter come first where both are here
            for assignment in instance.assignments
            if assignment.node_id == own_id and instance.state != "failed"
        }

    def _still_serves(self, process: HeldWorker, instance: Instance, assignment: Assignment) -> bool:
        return process.status.state != "lost" and self._is_same_part(process, instance, assignment)

    def _is_same_part(self, process: HeldWorker, instance: Instance, assignment: Assignment) -> bool:
        """Of one epoch too there may have been two placements, by two leaders that did not know of each other."""
        config = process.config
        return (
            config.shard == assignment.shard
            and config.options == instance.options
            and process.fingerprint == instance.fingerprint
        )

    def _start(self, tasks: asyncio.TaskGroup, instance: Instance, assignment: Assignment) -> None:
        config = WorkerConfig(
            node_name=self._cluster.state.self_status.identity.name,
            host=self._binding.host,
            model_dir=str(self._store.models_dir / instance.model_id),
            shard=assignment.shard,
            options=instance.options,
            hidden_size=instance.spec.hidden_size,
            weight_bytes=assignment.weight_bytes,
            kv_cache_bytes=assignment.kv_cache_bytes,
            working_bytes=assignment.working_bytes,
            device=self._torch_device,
            threads=self._cluster.state.self_status.device.threads,
            log_format=self._log_format,
            first_port=self._worker_ports[0],
            last_port=self._worker_ports[1],
            cores_may_sleep=self._cores_may_sleep,
            hang_timeout_s=self._hang_timeout_s,
        )
        process = self._start_worker(config, instance.fingerprint, instance.epoch, self.changed.set)
        what = f"the worker of {instance.model_id}"
        task = tasks.create_task(self._supervisor.contain(what, process.run()))
        self._held[instance.model_id] = _Held(process, task)
        self.changed.set()

    async def _stop(self, model_id: ModelId) -> None:
        held = self._held.pop(model_id, None)
        if held is not None:
            held.task.cancel()
            await asyncio.wait({held.task})
            self.changed.set()
