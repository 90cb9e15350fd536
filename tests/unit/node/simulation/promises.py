"""What holds in a home whatever happens to it: some of it always, the rest once all is calm."""

from __future__ import annotations

import logging
from collections.abc import Collection

from exo_lite.domain.cluster_state import ClusterState
from exo_lite.domain.ids import BootId, NodeId
from exo_lite.domain.model_spec import ModelSpec
from exo_lite.domain.placement import Placement
from tests.unit.node.simulation.questions import Question
from tests.unit.node.simulation.simulated_node import SimulatedNode
from tests.unit.node.simulation.workers import expected_tokens


class Promises(logging.Handler):
    """Watches every change of every node's state, and hears of tasks that fail."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.broken: list[str] = []
        self.gone: set[BootId] = set()
        """Boots of nodes whose processes have ended."""
        self.left: set[BootId] = set()
        """Those of them that said goodbye."""

    def emit(self, record: logging.LogRecord) -> None:
        """A supervisor notes a task that failed."""
        fields = record.__dict__
        self.broken.append(f"{record.getMessage()}: {fields.get('cause')} at {fields.get('place')}")

    def on_change(self, name: str, before: ClusterState, after: ClusterState) -> None:
        if (
            after.epoch < before.epoch and not before.written.is_restored
        ):  # those are pinned models, and no life of this node's
            self.broken.append(f"{name} went from epoch {before.epoch} back to {after.epoch}")
        if after.written is not before.written:
            self._check_layers(name, after.written)
        self._check_members(name, before, after)
        for instance in after.instances:
            dead = [part.name for part in instance.assignments if _is_dead(after, part.node_id)]
            if instance.state == "ready" and dead:
                self.broken.append(f"{name} calls {instance.model_id} ready, and takes {dead} for dead")

    def _check_layers(self, name: str, placement: Placement) -> None:
        for instance in placement.all_instances:
            layers = [layer for part in instance.assignments for layer in part.shard.layers]
            if layers != list(range(instance.n_layers)):
                self.broken.append(f"{name} takes it that {instance.model_id} has the layers {layers}")

    def _check_members(self, name: str, before: ClusterState, after: ClusterState) -> None:
        """Who is gone, and known to be, is not alive again without a start; of who said goodbye nobody hears at all."""
        for node_id, member in after.members.items():
            old, identity = before.members.get(node_id), member.status.identity
            was_dead = old is not None and old.state == "dead" and old.status.identity.boot_id == identity.boot_id
            is_back = member.state == "alive" if identity.boot_id not in self.left else member.state != "dead"
            if was_dead and is_back and identity.boot_id in self.gone:
                self.broken.append(f"{name} takes {identity.name} for {member.state}, which is gone")


def check_calm(nodes: Collection[SimulatedNode]) -> None:
    """One leads, all hold the same placement, and each node has the workers that it names, in the memory it offers."""
    leaders = {node.state.leader for node in nodes}
    assert leaders <= {min(node.name for node in nodes)}, f"{leaders} lead"
    placements = [node.placement for node in nodes]
    assert all(one == placements[0] for one in placements), "placements differ"
    for node in nodes:
        _check_workers(node)


def _is_dead(state: ClusterState, node_id: NodeId) -> bool:
    member = state.members.get(node_id)
    return member is not None and member.state == "dead"


def check_loaded(nodes: Collection[SimulatedNode], models: Collection[str]) -> None:
    """What somebody loaded, and nobody unloaded, is there."""
    for node in nodes:
        missing = [model for model in models if not node.is_ready(model)]
        assert not missing, f"{node.name} has lost {missing}"


def _check_workers(node: SimulatedNode) -> None:
    placed = [one for one in node.placement.all_instances if one.state != "failed"]
    parts = [part for one in placed for part in one.assignments if part.name == node.name]
    taken, limit = sum(part.memory_bytes for part in parts), node.state.self_status.memory.limit_bytes
    assert taken <= limit, f"{node.name} is to hold {taken} bytes and offers {limit}"
    held = {status.shard for status in node.state.self_status.shards}
    assert held == {part.shard for part in parts}, f"{node.name} holds {held}"


def check_answer(question: Question, spec: ModelSpec) -> None:
    """It has ended, and what was told of it is right."""
    assert question.is_over, f"it has no end: {question}"
    assert question.is_answered or question.error is not None or question.is_cut_off, question
    right = expected_tokens(question.prompt, spec.n_layers, question.num_tokens, spec.vocab_size)
    assert question.tokens == right[: len(question.tokens)], question
