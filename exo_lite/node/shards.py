"""This node's workers: started and stopped to match the placement."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from exo_lite.domain.errors import NotReady
from exo_lite.domain.ids import Epoch, InstanceId
from exo_lite.domain.logs import LogFormat
from exo_lite.domain.node import ShardStatus
from exo_lite.domain.worker import WorkerConfig
from exo_lite.node.cluster import Cluster
from exo_lite.node.network import Binding
from exo_lite.node.peers import PeerWorker
from exo_lite.node.supervisor import Supervisor
from exo_lite.node.worker_changes import HeldPart, Part, wanted_parts, worker_changes
from exo_lite.store.model_store import ModelStore

log = logging.getLogger(__name__)


class HeldWorker(Protocol):
    """One worker of this node: `worker_process.WorkerProcess` is the real one."""

    config: WorkerConfig
    fingerprint: str
    status: ShardStatus
    """Its newest word, or what is known of its end."""

    async def run(self) -> None:
        """Run the worker from its start to its end. Cancelling ends it."""

    def peer(self) -> PeerWorker:
        """The way to it. Raises NodeLost before it listens."""

    def keep_for(self, epoch: Epoch) -> None:
        """The same shard serves a newer placement."""


StartWorker = Callable[[WorkerConfig, str, Epoch, Callable[[], None]], HeldWorker]
"""Makes a worker from a configuration, its files' fingerprint, an epoch, and a callback for new statuses."""


@dataclass(frozen=True, slots=True)
class _Held:
    process: HeldWorker
    task: asyncio.Task[None]

    @property
    def part(self) -> HeldPart:
        config, status = self.process.config, self.process.status
        return HeldPart(config.shard, config.options, self.process.fingerprint, is_lost=status.state == "lost")


class ShardHost:
    """Runs as one task. A worker whose shard, options and files stay the same outlives a new placement."""

    def __init__(
        self,
        cluster: Cluster,
        store: ModelStore,
        start_worker: StartWorker,
        *,
        device: str,
        binding: Binding,
        worker_ports: tuple[int, int],
        log_format: LogFormat,
        cores_may_sleep: bool,
        hang_timeout_s: float,
        supervisor: Supervisor,
    ) -> None:
        """`device`: as the engine takes it."""
        self._cluster = cluster
        self._supervisor = supervisor
        self._store = store
        self._start_worker = start_worker
        self._device = device
        self._binding = binding
        self._worker_ports = worker_ports
        self._log_format = log_format
        self._cores_may_sleep = cores_may_sleep
        self._hang_timeout_s = hang_timeout_s
        self._held: dict[InstanceId, _Held] = {}
        self.changed = asyncio.Event()
        """Set when a worker's status changed; cleared by whoever publishes it."""

    @property
    def statuses(self) -> tuple[ShardStatus, ...]:
        return tuple(held.process.status for held in self._held.values())

    async def run(self) -> None:
        """Run until cancelled, then end every worker."""
        async with asyncio.TaskGroup() as tasks:
            await self._supervisor.keep("the node's workers", partial(self._keep_reconciling, tasks))

    def worker_of(self, instance_id: InstanceId) -> PeerWorker:
        """The worker that serves an instance here. Raises NotReady where none does, NodeLost before it listens."""
        held = self._held.get(instance_id)
        if held is None:
            raise NotReady(f"no worker here serves {instance_id.model_id} in epoch {instance_id.epoch} yet")
        return held.process.peer()

    async def _keep_reconciling(self, tasks: asyncio.TaskGroup) -> None:
        async for state in self._cluster.states():
            await self._reconcile(tasks, wanted_parts(state.written, state.self_id))

    async def _reconcile(self, tasks: asyncio.TaskGroup, wanted: Mapping[InstanceId, Part]) -> None:
        changes = worker_changes({one: held.part for one, held in self._held.items()}, wanted)
        for instance_id in changes.stop:
            await self._stop(instance_id)
        kept = {new: self._held.pop(old) for old, new in changes.keep}
        for instance_id, held in kept.items():
            held.process.keep_for(instance_id.epoch)
        self._held |= kept
        for instance_id in changes.start:
            with self._supervisor.containing(f"the worker of {instance_id.model_id}"):  # the others are not to miss it
                self._start(tasks, wanted[instance_id])

    def _start(self, tasks: asyncio.TaskGroup, part: Part) -> None:
        instance, assignment = part.instance, part.assignment
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
            engine=self._cluster.state.self_status.engine.name,
            device=self._device,
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
        self._held[instance.id] = _Held(process, task)
        self.changed.set()

    async def _stop(self, instance_id: InstanceId) -> None:
        held = self._held.pop(instance_id)
        held.task.cancel()
        await asyncio.wait({held.task})
        self.changed.set()
