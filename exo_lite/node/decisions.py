"""The leader's next actions for each instance: a pure function of what it sees."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from exo_lite.domain.cluster_state import ClusterState
from exo_lite.domain.engine import DEFAULT_ENGINE
from exo_lite.domain.errors import LinkBroken, NodeLost
from exo_lite.domain.ids import InstanceId, ModelId, NodeId
from exo_lite.domain.keep_alive import format_duration
from exo_lite.domain.links import Link, broken_links, link, link_names, unreachable
from exo_lite.domain.node import NodeStatus, ShardStatus
from exo_lite.domain.placement import Dot, Instance
from exo_lite.domain.plan import Assignment, NodeOffer
from exo_lite.domain.units import format_bytes
from exo_lite.domain.worker_report import WorkerFailure
from exo_lite.engine.table import ENGINES
from exo_lite.node.hints import SAME_VERSION


@dataclass(frozen=True, slots=True)
class Replan:
    """Something that the instance stands on is gone. `is_loss` tells a lost node from a worker that failed.

    `cause` is an ExoLiteError.code. With a `failed_link`, a stream broke off between two nodes, as far as is known yet.
    """

    instance_id: InstanceId
    reason: str
    is_loss: bool
    cause: str = NodeLost.code
    failed_link: Link | None = None


@dataclass(frozen=True, slots=True)
class GiveUp:
    """Trying again would fail again. `cause` is an ExoLiteError.code."""

    instance_id: InstanceId
    reason: str
    cause: str = NodeLost.code


@dataclass(frozen=True, slots=True)
class WarmUp:
    """Every layer is loaded: join the workers and send a token through."""

    instance_id: InstanceId


@dataclass(frozen=True, slots=True)
class EvictIdle:
    """Nobody has asked for it for as long as it is to be kept."""

    instance_id: InstanceId
    reason: str


@dataclass(frozen=True, slots=True)
class EvictSibling:
    """Another instance of a model that is served elsewhere has finished what it had."""

    instance_id: InstanceId
    dot: Dot


Action = Replan | GiveUp | WarmUp | EvictIdle | EvictSibling

STALE_PROOF_S = 6.0
"""An idle driver proves its hops every two seconds."""

MIN_IDLE_S = 2.0
"""Even a model that is kept for no time stays for a client's next request, or the first after its load."""


def next_actions(state: ClusterState) -> list[Action]:
    """Return at most one action for each instance, and the same ones until the state changes."""
    instances = state.written.instances
    actions = (_next_action(state, instance) for instance in instances if instance.state != "failed")
    return [*(action for action in actions if action is not None), *_finished_siblings(state)]


def _finished_siblings(state: ClusterState) -> list[EvictSibling]:
    return [EvictSibling(one.id, one.dot) for one in state.written.siblings if _has_finished(state, one)]


def _has_finished(state: ClusterState, sibling: Instance) -> bool:
    if sibling.state != "ready" or state.lost_reason(sibling) is not None:
        return True
    first = sibling.assignments[0]
    if first.node_id not in state.living:
        return False  # its placement has come before it
    status = state.shard_status(sibling, first)
    return (
        status is None or status.failure is not None or (status.driver.idle_s if status.driver else 0.0) >= MIN_IDLE_S
    )


def _next_action(state: ClusterState, instance: Instance) -> Action | None:
    lost = state.lost_reason(instance) or _overfull_reason(state, instance)
    if lost is not None:
        return Replan(instance.id, lost, is_loss=True)
    statuses = [state.shard_status(instance, assignment) for assignment in instance.assignments]
    problem = _worst_problem(instance, statuses) or _broken_ring(state, instance, statuses)
    if problem is not None:
        return problem
    if instance.state in ("loading", "warming") and all(status and status.state == "ready" for status in statuses):
        return WarmUp(instance.id)
    return _evict_if_idle(state, instance)


def _evict_if_idle(state: ClusterState, instance: Instance) -> EvictIdle | None:
    idle = idle_s(state, instance)
    if idle is None or idle < max(instance.keep_alive_s, MIN_IDLE_S):
        return None
    kept = f" for {format_duration(instance.keep_alive_s)}" if instance.keep_alive_s else ""
    return EvictIdle(instance.id, f"idle{kept}")


def idle_s(state: ClusterState, instance: Instance) -> float | None:
    """Return the seconds since an instance's last request at any node; None while it has some or is not ready.

    Where requests enter it is known at once when they end; what the driver says of it may be half a second old.
    """
    if instance.state != "ready" or any(instance.model_id in node.num_requests for node in state.living.values()):
        return None
    first = state.shard_status(instance, instance.assignments[0])
    return first.driver.idle_s if first and first.driver else 0.0


def _overfull_reason(state: ClusterState, instance: Instance) -> str | None:
    """Why an instance that still loads has to go elsewhere: one of its nodes offers less than it is to hold.

    After a restart the node may offer less than before, or have taken another model meanwhile.
    """
    if instance.state != "loading":
        return None
    for part in instance.assignments:
        node, others = state.living.get(part.node_id), _parts_before(state, instance, part.node_id)
        if node is None or not (others or state.written.is_restored):
            continue
        taken_bytes = sum(one.memory_bytes for one in (part, *others))
        if node.memory.limit_bytes < taken_bytes:
            limit, taken = format_bytes(node.memory.limit_bytes), format_bytes(taken_bytes)
            return f"{part.name} offers only {limit} now, but has to hold {taken}"
    return None


def _parts_before(state: ClusterState, instance: Instance, node_id: NodeId) -> list[Assignment]:
    """Return a node's parts of other instances that have loaded, or were placed before this one."""
    others = [one for one in state.written.instances if one.state != "failed" and one.id != instance.id]
    age = (instance.epoch, instance.model_id)
    before = [one for one in others if one.state != "loading" or (one.epoch, one.model_id) < age]
    return [part for one in before for part in one.assignments if part.node_id == node_id]


def _worst_problem(instance: Instance, statuses: Sequence[ShardStatus | None]) -> GiveUp | Replan | None:
    """The one that explains the others: a stream breaks off where a worker is gone, and the next ones because of it."""
    pairs = zip(statuses, instance.assignments, strict=True)
    problems = [problem for status, part in pairs if status and (problem := _problem(status, instance, part))]
    return min(problems, key=_rank, default=None)


def _rank(problem: GiveUp | Replan) -> int:
    if isinstance(problem, GiveUp):
        return 0
    if problem.failed_link is not None:
        return 2
    return 3 if problem.cause == NodeLost.code and not problem.is_loss else 1


def _broken_ring(state: ClusterState, instance: Instance, statuses: Sequence[ShardStatus | None]) -> Replan | None:
    """Neighbours that cannot reach each other, unless tokens still go through between them."""
    broken = ring_links(instance) & broken_links(state)
    if not broken or (instance.state == "ready" and not _is_stale(statuses[0])):
        return None
    reason = " and ".join(map(unreachable, link_names(broken, _names(instance))))
    return Replan(instance.id, reason, is_loss=True, cause=LinkBroken.code)


def _is_stale(first: ShardStatus | None) -> bool:
    age_s = first.driver.proof_age_s if first and first.driver else None
    return age_s is not None and age_s > STALE_PROOF_S


def ring_links(instance: Instance) -> frozenset[Link]:
    """The links that streams of an instance run along."""
    nodes = [part.node_id for part in instance.assignments]
    return frozenset(link(one, other) for one, other in zip(nodes, [*nodes[1:], nodes[0]], strict=True) if one != other)


def _names(instance: Instance) -> dict[NodeId, str]:
    return {part.node_id: part.name for part in instance.assignments}


def _failed_link(failure: WorkerFailure, instance: Instance) -> Link | None:
    stages = failure.stages or ()
    nodes = [instance.assignments[stage].node_id for stage in stages if stage < len(instance.assignments)]
    return link(*nodes) if len(set(nodes)) == 2 else None


def _problem(status: ShardStatus, instance: Instance, assignment: Assignment) -> GiveUp | Replan | None:
    """Return the action for a worker's trouble with its process, its shard, or the pipeline of this epoch."""
    if status.end is not None:
        return Replan(instance.id, status.end.text, is_loss=False, cause=status.end.code)
    report, failure = status.report, status.report.failure
    if failure is None:
        is_new = instance.state == "ready" and report.state == "loading"  # its daemon was away too briefly to be missed
        reason = f"{assignment.name} started again"
        return Replan(instance.id, reason, is_loss=True) if is_new else None
    if report.state == "lost":
        return GiveUp(instance.id, f"{assignment.name}: {failure.text}", failure.code)
    return _broken_pipeline(failure, instance) if report.joined_epoch == instance.epoch else None


def _broken_pipeline(failure: WorkerFailure, instance: Instance) -> Replan:
    failed = _failed_link(failure, instance)
    if failed is None:
        return Replan(instance.id, failure.text, is_loss=False, cause=failure.code)
    [(first, second)] = link_names([failed], _names(instance))
    reason = f"the stream between {first} and {second} broke off: {failure.text}"
    return Replan(instance.id, reason, is_loss=False, cause=LinkBroken.code, failed_link=failed)


def offers(state: ClusterState, model_id: ModelId, fingerprint: str | None) -> list[NodeOffer]:
    """Return what each living node can give to this model: its limit less what other instances take there.

    Nodes without the files of this fingerprint give nothing; None asks for no files.
    """
    taken: dict[NodeId, int] = {}
    for instance in state.written.all_instances:
        if instance.model_id == model_id or instance.state == "failed":
            continue
        for assignment in instance.assignments:
            taken[assignment.node_id] = taken.get(assignment.node_id, 0) + assignment.memory_bytes
    return [
        _offer(status, status.memory.limit_bytes - taken.get(node_id, 0), reason)
        for node_id, status in state.living.items()
        for reason in [_unwilling_reason(status, model_id, fingerprint)]
    ]


def _offer(status: NodeStatus, memory_bytes: int, reason: str | None) -> NodeOffer:
    """Return an offer; a node whose engine this version doesn't know offers nothing, and says why."""
    identity, engine = status.identity, status.engine.name
    if engine not in ENGINES:
        reason, engine = f"computes with {engine}, which the leader does not know: {SAME_VERSION}", DEFAULT_ENGINE
    return NodeOffer(identity.node_id, identity.name, 0 if reason else max(0, memory_bytes), reason, engine)


def _unwilling_reason(status: NodeStatus, model_id: ModelId, wanted: str | None) -> str | None:
    if wanted is None:
        return None
    held = status.models.get(model_id)
    if held is None:
        return f"does not have {model_id}: import it there with `exo-lite import`"
    if held != wanted:
        return f"has different files of {model_id} ({held[:8]}, not {wanted[:8]}): import the same files there"
    return None
