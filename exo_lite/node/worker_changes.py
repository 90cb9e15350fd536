"""How this node's workers come in line with a placement: pure functions, beside `shards` that acts on them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from exo_lite.domain.ids import InstanceId, NodeId
from exo_lite.domain.load_options import LoadOptions
from exo_lite.domain.placement import Instance, Placement
from exo_lite.domain.plan import Assignment
from exo_lite.domain.shard import Shard


@dataclass(frozen=True, slots=True)
class Part:
    """This node's part of an instance."""

    instance: Instance
    assignment: Assignment


@dataclass(frozen=True, slots=True)
class HeldPart:
    """The part of a model that a worker holds."""

    shard: Shard
    options: LoadOptions
    fingerprint: str
    is_lost: bool = False

    def serves(self, part: Part) -> bool:
        """Say whether the worker has what a part asks for: the same layers, files and options."""
        wanted = (part.assignment.shard, part.instance.options, part.instance.fingerprint)
        return (self.shard, self.options, self.fingerprint) == wanted

    def can_serve(self, part: Part) -> bool:
        """Say whether the worker, which its instance no longer needs, can be kept for a part."""
        return not self.is_lost and self.serves(part)


@dataclass(frozen=True, slots=True)
class WorkerChanges:
    """First `stop`, which frees memory; then `keep`, from one instance for another; then `start`."""

    stop: tuple[InstanceId, ...] = ()
    keep: tuple[tuple[InstanceId, InstanceId], ...] = ()
    start: tuple[InstanceId, ...] = ()


def wanted_parts(placement: Placement, node_id: NodeId) -> dict[InstanceId, Part]:
    """The parts that a node has to hold. A sibling gives way to an instance of its model on the same node."""
    parts = _parts(placement.instances, node_id)
    models = {one.model_id for one in parts}
    siblings = _parts(placement.siblings, node_id)
    return {one: part for one, part in siblings.items() if one.model_id not in models} | parts


def _parts(instances: Iterable[Instance], node_id: NodeId) -> dict[InstanceId, Part]:
    return {
        instance.id: Part(instance, assignment)
        for instance in instances
        for assignment in instance.assignments
        if assignment.node_id == node_id and instance.state != "failed"
    }


def worker_changes(held: Mapping[InstanceId, HeldPart], wanted: Mapping[InstanceId, Part]) -> WorkerChanges:
    """Return the changes after which there is a worker for each wanted part and for no other.

    One that stands for its part already is left alone, even a lost one: the leader decides what becomes of it. An
    instance may also ask for another part than before, where two leaders wrote the same epoch.
    """
    missing = [one for one, part in wanted.items() if one not in held or not held[one].serves(part)]
    spare = [one for one, part in held.items() if one in missing or one not in wanted]
    keep: dict[InstanceId, InstanceId] = {}
    for new in missing:
        fit = (old for old in spare if old.model_id == new.model_id and held[old].can_serve(wanted[new]))
        if (old := next((one for one in fit if one not in keep), None)) is not None:
            keep[old] = new
    return WorkerChanges(
        stop=tuple(one for one in spare if one not in keep),
        keep=tuple(keep.items()),
        start=tuple(one for one in missing if one not in keep.values()),
    )
