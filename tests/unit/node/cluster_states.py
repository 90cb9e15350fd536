"""Cluster states in a few words: node `a` is this one and leads, nodes are named node-ID."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from exo_lite.domain.cluster_state import ClusterState, Member, MemberState
from exo_lite.domain.errors import NodeLost, WorkerFailed
from exo_lite.domain.ids import BootId, Epoch, InstanceId, ModelId, NodeId
from exo_lite.domain.load_options import LoadOptions
from exo_lite.domain.model_spec import ModelSpec
from exo_lite.domain.node import PROTOCOL_VERSION, Device, MemoryUse, NodeIdentity, NodeStatus, ShardStatus
from exo_lite.domain.placement import Instance, InstanceState, Placement
from exo_lite.domain.plan import Assignment
from exo_lite.domain.shard import Shard
from exo_lite.domain.worker_report import DriverReport, ShardState, WorkerFailure, WorkerReport

MODEL = ModelId("tiny")
FINGERPRINT = "0123456789abcdef"
N_LAYERS = 4
SPEC = ModelSpec("llama", N_LAYERS, 8, 16, 2, 1, 4, 32, 64, dtype="float32")
LIMIT_BYTES = 1000
EPOCH = Epoch(5)
INSTANCE = InstanceId(MODEL, EPOCH)


def node(
    node_id: str, *shards: ShardStatus, models: Mapping[ModelId, str] | None = None, limit_bytes: int = LIMIT_BYTES
) -> NodeStatus:
    identity = NodeIdentity(
        node_id=NodeId(node_id),
        boot_id=BootId("boot"),
        name=f"node-{node_id}",
        cluster="home",
        version="1.2.3",
        protocol_version=PROTOCOL_VERSION,
        addresses=(f"10.0.0.{ord(node_id)}:52414",),
        http_address="127.0.0.1:52415",
    )
    held = {MODEL: FINGERPRINT} if models is None else models
    return NodeStatus(identity, 1, Device("cpu", "a processor", 4), MemoryUse(limit_bytes), shards, held)


def member(status: NodeStatus, state: MemberState = "alive") -> Member:
    return Member(status, state, heard_at_s=10.0, rtt_ms=0.5)


def part(node_id: str, start_layer: int, end_layer: int, model_id: ModelId = MODEL) -> Assignment:
    shard = Shard(model_id, start_layer, end_layer, N_LAYERS)
    return Assignment(NodeId(node_id), f"node-{node_id}", shard, weight_bytes=100, kv_cache_bytes=20, working_bytes=3)


def shard_status(
    assignment: Assignment,
    state: ShardState = "ready",
    *,
    placed_epoch: Epoch = EPOCH,
    joined_epoch: Epoch = EPOCH,
    worker_port: int | None = 7,
    stream_port: int | None = 17,
    error: str | None = None,
    code: str | None = None,
    failed_stages: tuple[int, int] | None = None,
    driver: DriverReport | None = None,
) -> ShardStatus:
    """A worker's status; one that is lost and has no port has ended."""
    has_ended = state == "lost" and worker_port is None
    code = code or (WorkerFailed.code if has_ended else NodeLost.code)
    failure = WorkerFailure(error, code, failed_stages) if error is not None else None
    report = WorkerReport(
        state="ready" if has_ended else state,
        progress=1.0 if state == "ready" else 0.4,
        joined_epoch=joined_epoch,
        failure=None if has_ended else failure,
        driver=driver,
    )
    end = failure if has_ended else None
    return ShardStatus(assignment.shard, placed_epoch, 100, 20, 3, report, worker_port, stream_port, end)


def driven(status: ShardStatus, **fields: Any) -> ShardStatus:
    """The first stage's worker, with what only it knows."""
    driver = replace(status.driver or DriverReport(), **fields)
    return replace(status, report=replace(status.report, driver=driver))


def instance(
    *assignments: Assignment, state: InstanceState = "ready", reason: str | None = None, model_id: ModelId = MODEL
) -> Instance:
    options = LoadOptions("float32", context_length=64)
    return Instance(model_id, FINGERPRINT, SPEC, EPOCH, options, assignments, state, reason)


def cluster(self_status: NodeStatus, members: Sequence[Member] = (), *instances: Instance) -> ClusterState:
    by_id = {one.status.identity.node_id: one for one in members}
    return ClusterState(self_status, by_id, Placement(NodeId("a"), EPOCH, 0, instances))


FIRST, SECOND = part("a", 0, 1), part("b", 2, 3)


def two_nodes(
    first: ShardStatus | None = None,
    second: ShardStatus | None = None,
    *,
    second_state: MemberState = "alive",
    state: InstanceState = "ready",
) -> ClusterState:
    """An instance split over a and b, each with the given word on its part; None: it has not heard of it yet."""
    this = node("a", *([first] if first else []))
    other = member(node("b", *([second] if second else [])), second_state)
    return cluster(this, [other], instance(FIRST, SECOND, state=state))


def both_ready(*, state: InstanceState = "ready") -> ClusterState:
    return two_nodes(
        shard_status(FIRST),
        shard_status(SECOND, worker_port=6, stream_port=16),
        state=state,
    )
