"""A node's description of itself: its identity (handshake) and its status (heartbeat)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from exo_lite.domain.engine import NodeEngine
from exo_lite.domain.ids import BootId, Epoch, InstanceId, ModelId, NodeId
from exo_lite.domain.shard import Shard
from exo_lite.domain.worker_report import DriverReport, ShardState, WorkerFailure, WorkerReport

PROTOCOL_VERSION = 4
"""The version of the messages between nodes. Nodes of another version are refused at the handshake."""


@dataclass(frozen=True, slots=True)
class NodeIdentity:
    """A node's identity. Only its addresses change while its daemon runs."""

    node_id: NodeId
    boot_id: BootId
    name: str
    cluster: str
    version: str
    protocol_version: int
    addresses: tuple[str, ...]
    """HOST:PORT of its gRPC server on each of its networks, the likeliest to be reached first."""
    http_address: str

    @property
    def address(self) -> str:
        """The first of its addresses, for people; which one others reach it by, each of them finds out."""
        return self.addresses[0] if self.addresses else "no address"


@dataclass(frozen=True, slots=True)
class Device:
    kind: str
    """cpu, cuda, mps, or what another engine finds."""
    name: str
    threads: int


@dataclass(frozen=True, slots=True)
class MemoryUse:
    """`limit_bytes` is what the node offers for models in all, whatever they use of it."""

    limit_bytes: int
    weights_bytes: int = 0
    kv_cache_bytes: int = 0
    working_bytes: int = 0

    @property
    def free_bytes(self) -> int:
        return max(0, self.limit_bytes - self.weights_bytes - self.kv_cache_bytes - self.working_bytes)


@dataclass(frozen=True, slots=True)
class ShardStatus:
    """One worker, as its daemon sees it: what it was started for, where it is, and its own last report."""

    shard: Shard
    placed_epoch: Epoch
    """The epoch of the placement that this worker was started or kept for."""
    weight_bytes: int
    kv_cache_bytes: int
    working_bytes: int
    report: WorkerReport = field(default_factory=WorkerReport)
    worker_port: int | None = None
    """Port of the worker's gRPC server, once it listens; at the host by which one reaches the node."""
    stream_port: int | None = None
    """Port where the stage after it gets what it computes."""
    end: WorkerFailure | None = None
    """Why its process is gone, or never came to listen."""

    @property
    def instance_id(self) -> InstanceId:
        """The instance that this worker was started or kept for."""
        return InstanceId(self.shard.model_id, self.placed_epoch)

    @property
    def state(self) -> ShardState:
        return "lost" if self.end is not None else self.report.state

    @property
    def failure(self) -> WorkerFailure | None:
        """The failure of its process, else of its shard or its pipeline."""
        return self.end or self.report.failure

    @property
    def driver(self) -> DriverReport | None:
        """Its report on the whole pipeline, if it is the first stage."""
        return self.report.driver


@dataclass(frozen=True, slots=True)
class NodeStatus:
    """How a node is. Sent with each heartbeat; the greater `sequence` of one boot is the newer."""

    identity: NodeIdentity
    sequence: int
    device: Device
    memory: MemoryUse
    shards: tuple[ShardStatus, ...] = ()
    models: Mapping[ModelId, str] = field(default_factory=dict)
    """Models in its store, each with the fingerprint of its files."""
    known_addresses: tuple[str, ...] = ()
    """The addresses of its living members, so that every node learns of all others."""
    num_requests: Mapping[ModelId, int] = field(default_factory=dict)
    """The number of requests that entered here and are waiting or being answered, by model; never 0."""
    reached: tuple[NodeId, ...] = ()
    """The nodes that answer this one's own calls."""
    unreached: tuple[NodeId, ...] = ()
    """Living ones that do not, though others hear of them."""
    engine: NodeEngine = field(default_factory=NodeEngine)
