"""What the leader has to do next about each instance: a pure function of what it sees."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from exo_lite.domain.cluster import ClusterState
from exo_lite.domain.errors import LinkBroken, NodeLost, WorkerFailed
from exo_lite.domain.ids import Epoch, ModelId, NodeId
from exo_lite.domain.keep_alive import format_duration
from exo_lite.domain.links import Link, broken_links, link, link_names, unreachable
from exo_lite.domain.node import NodeStatus, ShardStatus
from exo_lite.domain.pipeline import ConnectOrder, Hop
from exo_lite.domain.placement import Dot, Instance
from exo_lite.domain.plan import Assignment, NodeOffer
from exo_lite.domain.units import format_bytes


@dataclass(frozen=True, slots=True)
class PlaceAnew:
    """Something that the instance stands on is gone. `is_loss` tells a lost node from a worker that failed.

    `cause` is an ExoLiteError.code. With a `failed_link`, a stream broke off between two nodes, as far as is known yet.
    """

    model_id: ModelId
    epoch: Epoch
    reason: str
    is_loss: bool
    cause: str = NodeLost.code
    failed_link: Link | None = None


@dataclass(frozen=True, slots=True)
class GiveUp:
    """Trying again would fail again. `cause` is an ExoLiteError.code."""

    model_id: ModelId
    epoch: Epoch
    reason: str
    cause: str = NodeLost.code


@dataclass(frozen=True, slots=True)
class WarmUp:
    """Every layer is loaded: join the workers and send a token through."""

    model_id: ModelId
    epoch: Epoch


@dataclass(frozen=True, slots=True)
class Leave:
    """Nobody has asked for it for as long as it is to be kept."""

    model_id: ModelId
    epoch: Epoch
    reason: str


@dataclass(frozen=True, slots=True)
class LeaveSibling:
    """Another instance of a model that is served elsewhere has finished what it had."""

    model_id: ModelId
    epoch: Epoch
    dot: Dot


Action = PlaceAnew | GiveUp | WarmUp | Leave | LeaveSibling

STALE_PROOF_S = 6.0
"""An idle head proves its hops every two seconds."""

MIN_IDLE_S = 2.0
"""Even a model that is to leave at once stays for a client's next request, or the first after its load."""


def next_actions(state: ClusterState) -> list[Action]:
    """At most one for each instance; the same again until the state changes."""
    instances = state.placement.instances if state.placement else ()
    actions = (_next_action(state, instance) for instance in instances if instance.state != "failed")
    return [*(action for action in actions if action is not None), *_finished_siblings(state)]


def _finished_siblings(state: ClusterState) -> list[LeaveSibling]:
    siblings = state.placement.siblings if state.placement else ()
    return [LeaveSibling(one.model_id, one.epoch, one.dot) for one in siblings if _has_finished(state, one)]


def _has_finished(state: ClusterState, sibling: Instance) -> bool:
    if sibling.state != "ready" or lost_reason(state, sibling) is not None:
        return True
    first = sibling.assignments[0]
    if first.node_id not in state.living:
        return False  # its placement has come before it
    head = shard_status(state, sibling, first)
    return head is None or head.error is not None or (head.idle_s or 0.0) >= MIN_IDLE_S


def _next_action(state: ClusterState, instance: Instance) -> Action | None:
    lost = lost_reason(state, instance) or _shrunk_reason(state, instance)
    if lost is not None:
        return PlaceAnew(instance.model_id, instance.epoch, lost, is_loss=True)
    statuses = [shard_status(state, instance, assignment) for assignment in instance.assignments]
    problem = _worst_problem(instance, statuses) or _broken_ring(state, instance, statuses)
    if problem is not None:
        return problem
    if instance.state in ("loading", "warming") and all(status and status.state == "ready" for status in statuses):
        return WarmUp(instance.model_id, instance.epoch)
    return _leave_if_idle(state, instance)


def _leave_if_idle(state: ClusterState, instance: Instance) -> Leave | None:
    idle = idle_s(state, instance)
    if idle is None or idle < max(instance.keep_alive_s, MIN_IDLE_S):
        return None
    kept = f" for {format_duration(instance.keep_alive_s)}" if instance.keep_alive_s else ""
    return Leave(instance.model_id, instance.epoch, f"idle{kept}")


def idle_s(state: ClusterState, instance: Instance) -> float | None:
    """Since an instance's last request, wherever it entered; None while it has some or is not ready for any.

    Where requests enter it is known at once when they end; what the head says of it may be half a second old.
    """
    if instance.state != "ready" or any(instance.model_id in node.num_requests for node in state.living.values()):
        return None
    head = shard_status(state, instance, instance.assignments[0])
    return head.idle_s or 0.0 if head else 0.0


def lost_reason(state: ClusterState, instance: Instance) -> str | None:
    """Names the nodes of an instance that are dead or gone; None while all live."""
    lost = [assignment.name for assignment in instance.assignments if state.is_lost(assignment.node_id)]
    return f"{' and '.join(lost)} {'is' if len(lost) == 1 else 'are'} lost" if lost else None


def _shrunk_reason(state: ClusterState, instance: Instance) -> str | None:
    """After a restart, nodes may offer less than when the instance was placed on them."""
    if state.placement is None or not state.placement.is_restored:
        return None
    for part in instance.assignments:
        node = state.living.get(part.node_id)
        if node is not None and node.memory.limit_bytes < part.memory_bytes:
            limit, taken = format_bytes(node.memory.limit_bytes), format_bytes(part.memory_bytes)
            return f"{part.name} offers {limit} now, and had taken {taken}"
    return None


def as_seen(state: ClusterState, instance: Instance) -> Instance:
    """One that has just lost a node is not ready, whatever its placement says until the leader has a new one."""
    lost = lost_reason(state, instance) if instance.state == "ready" else None
    return instance if lost is None else replace(instance, state="degraded", reason=lost)


def shard_status(state: ClusterState, instance: Instance, assignment: Assignment) -> ShardStatus | None:
    """How a part of an instance is; None before its node has heard of this epoch."""
    node = state.living.get(assignment.node_id)
    for status in node.shards if node else ():
        if status.shard.model_id == instance.model_id and status.assigned_epoch == instance.epoch:
            return status
    return None


def _worst_problem(instance: Instance, statuses: Sequence[ShardStatus | None]) -> GiveUp | PlaceAnew | None:
    """The one that explains the others: a stream breaks off where a worker is gone, and the next ones because of it."""
    pairs = zip(statuses, instance.assignments, strict=True)
    problems = [problem for status, part in pairs if status and (problem := _problem(status, instance, part))]
    return min(problems, key=_rank, default=None)


def _rank(problem: GiveUp | PlaceAnew) -> int:
    if isinstance(problem, GiveUp):
        return 0
    if problem.failed_link is not None:
        return 2
    return 3 if problem.cause == NodeLost.code and not problem.is_loss else 1


def _broken_ring(state: ClusterState, instance: Instance, statuses: Sequence[ShardStatus | None]) -> PlaceAnew | None:
    """Neighbours that cannot reach each other, unless tokens still go through between them."""
    broken = ring_links(instance) & broken_links(state)
    if not broken or (instance.state == "ready" and not _is_stale(statuses[0])):
        return None
    reason = " and ".join(map(unreachable, link_names(broken, _names(instance))))
    return PlaceAnew(instance.model_id, instance.epoch, reason, is_loss=True, cause=LinkBroken.code)


def _is_stale(head: ShardStatus | None) -> bool:
    return head is not None and head.proof_age_s is not None and head.proof_age_s > STALE_PROOF_S


def ring_links(instance: Instance) -> frozenset[Link]:
    """The links that streams of an instance run along."""
    nodes = [part.node_id for part in instance.assignments]
    return frozenset(link(one, other) for one, other in zip(nodes, [*nodes[1:], nodes[0]], strict=True) if one != other)


def _names(instance: Instance) -> dict[NodeId, str]:
    return {part.node_id: part.name for part in instance.assignments}


def _failed_link(status: ShardStatus, instance: Instance) -> Link | None:
    stages = status.failed_stages or ()
    nodes = [instance.assignments[stage].node_id for stage in stages if stage < len(instance.assignments)]
    return link(*nodes) if len(set(nodes)) == 2 else None


def _problem(status: ShardStatus, instance: Instance, assignment: Assignment) -> GiveUp | PlaceAnew | None:
    cause = status.error_code or NodeLost.code
    if status.error is None:
        is_new = instance.state == "ready" and status.state == "loading"  # its daemon was away too briefly to be missed
        reason = f"{assignment.name} started again"
        return PlaceAnew(instance.model_id, instance.epoch, reason, is_loss=True) if is_new else None
    if status.state == "lost" and status.worker_port is not None:  # the worker lives and says why it cannot load
        return GiveUp(instance.model_id, instance.epoch, f"{assignment.name}: {status.error}", cause)
    if status.state == "lost":
        cause = status.error_code or WorkerFailed.code
        return PlaceAnew(instance.model_id, instance.epoch, status.error, is_loss=False, cause=cause)
    if status.epoch != instance.epoch:
        return None
    failed = _failed_link(status, instance)
    if failed is None:
        return PlaceAnew(instance.model_id, instance.epoch, status.error, is_loss=False, cause=cause)
    [(first, second)] = link_names([failed], _names(instance))
    reason = f"the stream between {first} and {second} broke off: {status.error}"
    return PlaceAnew(
        instance.model_id, instance.epoch, reason, is_loss=False, cause=LinkBroken.code, failed_link=failed
    )


def connect_orders(state: ClusterState, instance: Instance) -> list[tuple[NodeId, ConnectOrder]]:
    """Each stage's order, the last stage's first. Every worker must listen."""
    hops = []
    for assignment in instance.assignments:
        status = shard_status(state, instance, assignment)
        port = status.stream_port or 0 if status else 0
        hops.append(Hop(assignment.name, f":{port}", assignment.node_id))  # each node knows its own way to the others
    last = len(hops) - 1
    orders = [
        ConnectOrder(
            model_id=instance.model_id,
            epoch=instance.epoch,
            stage=stage,
            num_stages=len(hops),
            previous=hops[stage - 1] if stage else None,
            tail=hops[last] if stage == 0 < last else None,
            next_name=hops[(stage + 1) % len(hops)].name,
        )
        for stage in range(len(hops))
    ]
    return [(one.node_id, order) for one, order in zip(instance.assignments, orders, strict=True)][::-1]


def offers(state: ClusterState, model_id: ModelId, fingerprint: str | None) -> list[NodeOffer]:
    """What each living node can give to this model: its limit less what other instances take there.

    Nodes without the files of this fingerprint give nothing; None asks for no files.
    """
    instances = (*state.placement.siblings, *state.placement.instances) if state.placement else ()
    taken: dict[NodeId, int] = {}
    for instance in instances:
        if instance.model_id == model_id or instance.state == "failed":
            continue
        for assignment in instance.assignments:
            taken[assignment.node_id] = taken.get(assignment.node_id, 0) + assignment.memory_bytes
    return [
        _offer(node_id, status.identity.name, status.memory.limit_bytes - taken.get(node_id, 0), reason)
        for node_id, status in state.living.items()
        for reason in [_unwilling_reason(status, model_id, fingerprint)]
    ]


def _offer(node_id: NodeId, name: str, memory_bytes: int, reason: str | None) -> NodeOffer:
    return NodeOffer(node_id, name, 0 if reason else max(0, memory_bytes), reason)


def _unwilling_reason(status: NodeStatus, model_id: ModelId, wanted: str | None) -> str | None:
    if wanted is None:
        return None
    held = status.models.get(model_id)
    if held is None:
        return f"does not have {model_id}: `exo-lite import` it there"
    if held != wanted:
        return f"has other files of {model_id} ({held[:8]}, not {wanted[:8]}): import the same ones there"
    return None
