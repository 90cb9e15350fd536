"""The document of GET /api/v1/state: the cluster as this node sees it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict

from exo_lite.domain.cluster_document import (
    ClusterDocument,
    Entry,
    ModelDocument,
    NodeDocument,
    RequestsDocument,
    ShardDocument,
)
from exo_lite.domain.cluster_state import ClusterState, Member
from exo_lite.domain.links import Link, broken_links
from exo_lite.domain.load_options import options_to_json
from exo_lite.domain.node import NodeStatus, ShardStatus
from exo_lite.domain.placement import Instance
from exo_lite.domain.plan import Assignment
from exo_lite.domain.worker_report import DriverReport, ShardState
from exo_lite.node.candidates import Unreached
from exo_lite.node.event_log import NodeEvent
from exo_lite.node.exactness import is_exact
from exo_lite.node.hints import fix_for
from exo_lite.node.notes import notes


def state_document(
    state: ClusterState, events: Iterable[NodeEvent], now_s: float, *, unreached: Iterable[Unreached] = ()
) -> ClusterDocument:
    """`now_s`: of the clock of Member.heard_at_s."""
    identity = state.self_status.identity
    members = [_node(member.status, member, now_s) for member in state.members.values()]
    return {
        "node": {"id": identity.node_id, "name": identity.name},
        "cluster": identity.cluster,
        "epoch": state.epoch,
        "leader": state.leader,
        "nodes": sorted([_node(state.self_status, None, now_s), *members], key=lambda node: node["name"]),
        "models": [_model(state, instance) for instance in state.instances],
        "broken_links": [_link(state, pair) for pair in sorted(broken_links(state), key=sorted)],
        "notes": [asdict(note) for note in notes(state)],
        "unreached": [_unreached(one, identity.name) for one in unreached],
        "events": [asdict(event) for event in events],
    }


def _link(state: ClusterState, pair: Link) -> Entry:
    node_ids = sorted(pair)
    return {"node_ids": node_ids, "nodes": [state.living[node_id].identity.name for node_id in node_ids]}


def _unreached(one: Unreached, seen_by: str) -> Entry:
    return {
        "node_id": one.node_id,
        "name": one.name,
        "address": one.address,
        "seen_by": seen_by,
        "since_s": one.since_s,
        "reason": one.reason,
        "fix": one.fix,
    }


def _node(status: NodeStatus, member: Member | None, now_s: float) -> NodeDocument:
    identity, memory = status.identity, status.memory
    return {
        "id": identity.node_id,
        "name": identity.name,
        "address": member.address if member else identity.address,
        "addresses": list(identity.addresses),
        "http_address": identity.http_address,
        "self": member is None,
        "state": member.state if member else "alive",
        "version": identity.version,
        "device": asdict(status.device),
        "engine": asdict(status.engine),
        "rtt_ms": member.rtt_ms if member else None,
        "heartbeat_age_s": max(0.0, now_s - member.heard_at_s) if member else 0.0,
        "memory": {
            "limit_bytes": memory.limit_bytes,
            "weights_bytes": memory.weights_bytes,
            "kv_cache_bytes": memory.kv_cache_bytes,
            "working_bytes": memory.working_bytes,
            "free_bytes": memory.free_bytes,
        },
    }


def _model(state: ClusterState, instance: Instance) -> ModelDocument:
    statuses = [state.shard_status(instance, assignment) for assignment in instance.assignments]
    first = statuses[0] if statuses else None
    driver = first.driver if first else None
    told = driver or DriverReport()
    counts = told.counts
    exact = is_exact(state, instance)
    return {
        "id": instance.model_id,
        "n_layers": instance.n_layers,
        "vocab_size": instance.spec.vocab_size,
        "state": instance.state,
        "reason": instance.reason,
        "fix": fix_for(instance.cause) if instance.state == "failed" else None,
        "epoch": instance.epoch,
        "dtype": instance.options.dtype,
        "quant": instance.options.quant,
        "exact": exact,
        "context_length": instance.options.context_length,
        "slots": instance.options.num_slots,
        "options": options_to_json(instance.options),
        "prefix_cache": {
            "enabled": instance.options.prefix_cache,
            "prompt_tokens": counts.num_prompt_tokens,
            "cached_tokens": counts.num_cached_tokens,
            "kept_blocks": counts.num_kept_blocks,
        },
        "speculation": {
            "enabled": instance.options.speculation and exact,
            "proposed_tokens": counts.num_proposed_tokens,
            "accepted_tokens": counts.num_accepted_tokens,
        },
        "tokens_per_second": told.tokens_per_second,
        "proof_age_s": told.proof_age_s,
        "keep_alive_s": None if instance.is_pinned else instance.keep_alive_s,
        "idle_s": driver.idle_s if driver else None,
        "kv_blocks": {"total": told.num_kv_blocks, "free": told.num_free_kv_blocks},
        "requests": _num_requests(state, instance, told if first else None),
        "shards": [
            _shard(assignment, status, state.shard_state(instance, assignment), told.hop_ms)
            for assignment, status in zip(instance.assignments, statuses, strict=True)
        ],
    }


def _num_requests(state: ClusterState, instance: Instance, driver: DriverReport | None) -> RequestsDocument:
    """Count the requests at the first stage, or, before it takes any, those that wait for it where they entered."""
    if instance.state == "ready" and driver is not None:
        return {"running": driver.num_running, "waiting": driver.num_waiting}
    return {"running": 0, "waiting": sum(node.num_requests.get(instance.model_id, 0) for node in state.living.values())}


def _shard(
    assignment: Assignment, status: ShardStatus | None, state: ShardState, hop_ms: float | None
) -> ShardDocument:
    return {
        "node_id": assignment.node_id,
        "node": assignment.name,
        "start_layer": assignment.shard.start_layer,
        "end_layer": assignment.shard.end_layer,
        "state": state,
        "progress": status.report.progress if status else 0.0,
        "weight_bytes": assignment.weight_bytes,
        "kv_cache_bytes": assignment.kv_cache_bytes,
        "numerics": status.report.numerics if status else None,
        "compute_ms": status.report.compute_ms if status else None,
        "hop_ms": hop_ms,
    }
