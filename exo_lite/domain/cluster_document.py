"""The document of GET /api/v1/state: the cluster as one node sees it, in JSON types. Clients rely on these keys."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, TypedDict

from exo_lite.domain.model_spec import DType, Quantization
from exo_lite.domain.placement import InstanceState
from exo_lite.domain.worker_report import ShardState

Entry = dict[str, Any]
"""An event or note for people, as JSON."""


class NameDocument(TypedDict):
    id: str
    name: str


class NodeDocument(TypedDict):
    id: str
    name: str
    address: str
    addresses: list[str]
    http_address: str
    self: bool
    state: Literal["alive", "suspect", "dead"]
    version: str
    device: Entry
    engine: Entry
    rtt_ms: float | None
    heartbeat_age_s: float
    memory: dict[str, int]


"""`memory` has the keys limit_bytes, weights_bytes, kv_cache_bytes, working_bytes and free_bytes."""


class PrefixCacheDocument(TypedDict):
    enabled: bool
    prompt_tokens: int
    cached_tokens: int
    kept_blocks: int


class SpeculationDocument(TypedDict):
    enabled: bool
    proposed_tokens: int
    accepted_tokens: int


class BlocksDocument(TypedDict):
    total: int
    free: int


class RequestsDocument(TypedDict):
    running: int
    waiting: int


class ShardDocument(TypedDict):
    """The decoder layers [start_layer, end_layer] on one node, both ends inclusive."""

    node_id: str
    node: str
    start_layer: int
    end_layer: int
    state: ShardState
    progress: float
    weight_bytes: int
    kv_cache_bytes: int
    numerics: str | None
    compute_ms: float | None
    hop_ms: float | None


class ModelDocument(TypedDict):
    """`options` has every load option by its JSON key."""

    id: str
    n_layers: int
    vocab_size: int
    state: InstanceState
    reason: str | None
    fix: str | None
    epoch: int
    dtype: DType
    quant: Quantization
    exact: bool
    context_length: int
    slots: int
    options: Entry
    prefix_cache: PrefixCacheDocument
    speculation: SpeculationDocument
    tokens_per_second: float
    proof_age_s: float | None
    keep_alive_s: float | None
    idle_s: float | None
    kv_blocks: BlocksDocument
    requests: RequestsDocument
    shards: Sequence[ShardDocument]


class ClusterDocument(TypedDict):
    node: NameDocument
    cluster: str
    epoch: int
    leader: str
    nodes: Sequence[NodeDocument]
    models: Sequence[ModelDocument]
    broken_links: Sequence[Entry]
    notes: Sequence[Entry]
    unreached: Sequence[Entry]
    events: Sequence[Entry]
