"""How workers come in line with a placement, case by case."""

from __future__ import annotations

from dataclasses import replace

from exo_lite.domain.ids import Epoch, InstanceId, ModelId, NodeId
from exo_lite.domain.placement import Instance, Placement
from exo_lite.domain.plan import Assignment
from exo_lite.node.worker_changes import HeldPart, Part, WorkerChanges, wanted_parts, worker_changes
from tests.unit.node.cluster_states import EPOCH, INSTANCE, MODEL, instance, part

A = NodeId("a")
WHOLE, HALF = part("a", 0, 3), part("a", 0, 1)
NEXT = InstanceId(MODEL, Epoch(EPOCH + 1))
OTHER = InstanceId(ModelId("other"), EPOCH)


def wanted(instance_id: InstanceId, assignment: Assignment) -> dict[InstanceId, Part]:
    placed = replace(instance(assignment), model_id=instance_id.model_id, epoch=instance_id.epoch)
    return {instance_id: Part(placed, assignment)}


def held(assignment: Assignment, *, is_lost: bool = False) -> HeldPart:
    placed = instance(assignment)
    return HeldPart(assignment.shard, placed.options, placed.fingerprint, is_lost)


def test_a_worker_that_stands_for_its_part_is_left_alone_even_if_it_is_lost():
    for is_lost in (False, True):
        assert worker_changes({INSTANCE: held(WHOLE, is_lost=is_lost)}, wanted(INSTANCE, WHOLE)) == WorkerChanges()


def test_one_that_nobody_wants_is_stopped_and_one_that_is_missing_is_started():
    assert worker_changes({INSTANCE: held(WHOLE)}, {}) == WorkerChanges(stop=(INSTANCE,))
    assert worker_changes({}, wanted(INSTANCE, WHOLE)) == WorkerChanges(start=(INSTANCE,))


def test_the_same_part_of_a_newer_instance_keeps_its_worker():
    assert worker_changes({INSTANCE: held(WHOLE)}, wanted(NEXT, WHOLE)) == WorkerChanges(keep=((INSTANCE, NEXT),))


def test_a_worker_that_is_lost_or_holds_something_else_is_replaced():
    replaced = WorkerChanges(stop=(INSTANCE,), start=(NEXT,))
    assert worker_changes({INSTANCE: held(WHOLE, is_lost=True)}, wanted(NEXT, WHOLE)) == replaced
    assert worker_changes({INSTANCE: held(HALF)}, wanted(NEXT, WHOLE)) == replaced
    other_files = replace(held(WHOLE), fingerprint="fedcba9876543210")
    assert worker_changes({INSTANCE: other_files}, wanted(NEXT, WHOLE)) == replaced
    other_options = replace(held(WHOLE), options=replace(held(WHOLE).options, quant="int8"))
    assert worker_changes({INSTANCE: other_options}, wanted(NEXT, WHOLE)) == replaced


def test_two_leaders_that_wrote_the_same_epoch_may_ask_for_another_part():
    changes = worker_changes({INSTANCE: held(HALF)}, wanted(INSTANCE, WHOLE))
    assert changes == WorkerChanges(stop=(INSTANCE,), start=(INSTANCE,))


def test_two_instances_of_one_model_have_a_worker_each():
    both = wanted(INSTANCE, WHOLE) | wanted(NEXT, WHOLE)
    assert worker_changes({INSTANCE: held(WHOLE)}, both) == WorkerChanges(start=(NEXT,))
    assert worker_changes({INSTANCE: held(WHOLE), NEXT: held(WHOLE)}, both) == WorkerChanges()
    assert worker_changes({INSTANCE: held(WHOLE), NEXT: held(WHOLE)}, wanted(NEXT, WHOLE)).stop == (INSTANCE,)


def test_a_worker_is_kept_for_one_instance_and_for_its_own_model_only():
    third = InstanceId(MODEL, Epoch(EPOCH + 2))
    changes = worker_changes({INSTANCE: held(WHOLE)}, wanted(NEXT, WHOLE) | wanted(third, WHOLE))
    assert changes == WorkerChanges(keep=((INSTANCE, NEXT),), start=(third,))
    assert worker_changes({OTHER: held(WHOLE)}, wanted(NEXT, WHOLE)) == WorkerChanges(stop=(OTHER,), start=(NEXT,))


def placement(*instances: Instance, siblings: tuple[Instance, ...] = ()) -> Placement:
    return Placement(A, NEXT.epoch, 0, instances, siblings=siblings)


def test_a_node_holds_its_own_parts_of_what_has_not_failed():
    elsewhere = replace(instance(part("b", 0, 3)), epoch=NEXT.epoch)
    failed = instance(part("a", 0, 3, OTHER.model_id), model_id=OTHER.model_id, state="failed")
    parts = wanted_parts(placement(instance(HALF, part("b", 2, 3)), elsewhere, failed), A)
    assert {one: held.assignment for one, held in parts.items()} == {INSTANCE: HALF}


def test_it_holds_two_instances_of_one_model_where_both_are_placed_on_it():
    both = instance(WHOLE), replace(instance(HALF), epoch=NEXT.epoch)
    assert list(wanted_parts(placement(*both), A)) == [INSTANCE, NEXT]


def test_a_sibling_gives_way_to_an_instance_of_its_model_on_the_same_node():
    sibling, chosen = instance(WHOLE), replace(instance(WHOLE), epoch=NEXT.epoch)
    assert list(wanted_parts(placement(chosen, siblings=(sibling,)), A)) == [NEXT]
    elsewhere = replace(instance(part("b", 0, 3)), epoch=NEXT.epoch)
    assert list(wanted_parts(placement(elsewhere, siblings=(sibling,)), A)) == [INSTANCE]
