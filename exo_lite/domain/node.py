"""What a node says of itself: who it is (handshake) and how it is (heartbeat)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from exo_lite.domain.ids import BootId, Epoch, InstanceId, ModelId, NodeId
from exo_lite.domain.shard import Shard

PROTOCOL_VERSION = 3
"""Of the wire between nodes. Nodes of another one are refused at the handshake."""

DeviceKind = Literal["cpu", "cuda", "mps"]
ShardState = Literal["loading", "ready", "lost"]


@dataclass(frozen=True, slots=True)
class NodeIdentity:
    """Who a node is. Only its addresses change while its daemon runs."""

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
    kind: DeviceKind
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
class ServingCounts:
    """What a head has counted in its epoch."""

    num_kept_blocks: int = 0
    """Of the KV cache: free ones that are kept for prompts that begin alike."""
    num_prompt_tokens: int = 0
    """Of all requests that were given a place."""
    num_cached_tokens: int = 0
    """Of these, that did not have to be computed again."""
    num_proposed_tokens: int = 0
    """Guesses at tokens of answers."""
    num_accepted_tokens: int = 0
    """Of these, that were right."""


@dataclass(frozen=True, slots=True)
class ShardStatus:
    """One worker, as its daemon sees it."""

    shard: Shard
    assigned_epoch: Epoch
    """Of the placement that this worker was started or kept for."""
    epoch: Epoch
    """Of the pipeline that it is joined to; 0 before the first."""
    state: ShardState
    progress: float
    """Of loading, 0 to 1."""
    weight_bytes: int
    kv_cache_bytes: int
    working_bytes: int
    worker_port: int | None = None
    """Port of the worker's gRPC server, once it listens; at the host by which one reaches the node."""
    stream_port: int | None = None
    """Port where the stage after it gets what it computes."""
    compute_ms: float | None = None
    """Moving average of one step's computing."""
    hop_ms: float | None = None
    """Moving average of what a hop adds to a step; known to the head only."""
    tokens_per_second: float = 0.0
    """Tokens sampled in the last seconds; known to the head only."""
    num_running: int = 0
    num_waiting: int = 0
    proof_age_s: float | None = None
    """Since the last token or probe went through every hop; known to the head only."""
    counts: ServingCounts = ServingCounts()
    """Known to the head only."""
    error: str | None = None
    error_code: str | None = None
    """Of ExoLiteError.code, where there is an error."""
    failed_stages: tuple[int, int] | None = None
    """The two stages whose stream broke off, where that is the error."""
    idle_s: float | None = None
    """Since the last request left, 0 while there are some; known to the head only."""
    num_kv_blocks: int = 0
    """Of the KV cache, for all its sequences; known to the head only."""
    num_free_kv_blocks: int = 0
    """Those that no request holds."""

    @property
    def instance_id(self) -> InstanceId:
        """The instance that this worker was started or kept for."""
        return InstanceId(self.shard.model_id, self.assigned_epoch)

    @property
    def cannot_load(self) -> bool:
        """Whether the worker lives and says why it has no shard: another start would end the same way."""
        return self.state == "lost" and self.worker_port is not None

    @property
    def has_ended(self) -> bool:
        """Whether the worker's process is gone, or never came to listen."""
        return self.state == "lost" and self.worker_port is None


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
    """Of its living members, so that all learn of all."""
    num_requests: Mapping[ModelId, int] = field(default_factory=dict)
    """That entered here and wait for their model or are being answered, by model; those without any are left out."""
    reached: tuple[NodeId, ...] = ()
    """The nodes that answer this one's own calls."""
    unreached: tuple[NodeId, ...] = ()
    """Living ones that do not, though others hear of them."""
