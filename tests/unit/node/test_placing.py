"""From an old placement and a command to the next one."""

from __future__ import annotations

from dataclasses import replace

from exo_lite.domain.ids import Epoch, InstanceId, ModelId, NodeId
from exo_lite.domain.keep_alive import FOR_EVER
from exo_lite.domain.load_options import LoadRequest
from exo_lite.domain.placement import Dot, ModelDescription, Placement
from exo_lite.domain.plan import Plan
from exo_lite.node.placing import changed, evicted, kept_s, new_instance, placed, unloaded, without_sibling
from tests.unit.node.cluster_states import EPOCH, FINGERPRINT, MODEL, N_LAYERS, SPEC, instance, part

NEXT = Epoch(EPOCH + 1)
OTHER = ModelId("other")
THERE = instance(part("a", 0, 3))
BESIDE = instance(part("a", 0, 3, OTHER), model_id=OTHER)
SIBLING = replace(instance(part("b", 0, 3)), epoch=Epoch(4), dot=Dot(NodeId("b"), 7))
OLD = Placement(NodeId("a"), EPOCH, 3, (BESIDE, THERE), siblings=(SIBLING,), clock={NodeId("a"): 9})
TINY = ModelDescription(MODEL, FINGERPRINT, SPEC)
PLAN = Plan(MODEL, N_LAYERS, THERE.options, (part("b", 0, 3),))


def test_a_new_instance_has_the_next_epoch_and_replaces_those_of_its_model_and_no_sibling():
    new = new_instance(OLD, TINY, PLAN, "node-a is lost", 60.0)
    assert (new.epoch, new.state, new.reason, new.keep_alive_s) == (NEXT, "loading", "node-a is lost", 60.0)
    after = placed(OLD, new, evicting=())
    assert (after.epoch, after.instances, after.siblings, after.unloaded) == (NEXT, (BESIDE, new), (SIBLING,), ())


def test_what_is_evicted_for_it_is_said():
    new = new_instance(OLD, TINY, PLAN, None, FOR_EVER)
    after = placed(OLD, new, evicting=(BESIDE.id,))
    assert after.instances == (new,)
    [gone] = after.unloaded
    assert (gone.model_id, gone.epoch, gone.text) == (OTHER, NEXT, "other was evicted to make room for tiny")


def test_a_change_of_one_instance_is_no_new_epoch_and_leaves_the_others():
    ready = replace(THERE, state="warming")
    assert changed(OLD, ready) == replace(OLD, instances=(BESIDE, ready))
    gone = replace(THERE, epoch=NEXT)
    assert changed(OLD, gone) == OLD


def test_nothing_of_an_unloaded_model_stays():
    after = unloaded(OLD, MODEL)
    assert (after.epoch, after.instances, after.siblings) == (NEXT, (BESIDE,), ())
    assert [one.text for one in after.unloaded] == ["tiny was unloaded"]


def test_siblings_leave_with_the_last_instance_of_their_model():
    assert evicted(OLD, THERE.id, "idle for 5 min").siblings == ()
    newer = replace(THERE, epoch=NEXT)
    both = replace(OLD, instances=(BESIDE, THERE, newer))
    after = evicted(both, THERE.id, "idle for 5 min")
    assert (after.instances, after.siblings) == ((BESIDE, newer), (SIBLING,))
    assert [one.text for one in after.unloaded] == ["tiny was evicted: idle for 5 min"]


def test_a_sibling_that_has_finished_is_taken_out_by_its_dot():
    assert without_sibling(OLD, SIBLING.dot).siblings == ()
    assert without_sibling(OLD, Dot(NodeId("b"), 8)) == OLD
    assert OLD.find(InstanceId(MODEL, Epoch(4))) == SIBLING


def test_a_request_does_not_unpin():
    on_demand = LoadRequest(keep_alive_s=60.0, is_on_demand=True)
    assert kept_s(None, on_demand) == 60.0
    assert kept_s(THERE, on_demand) == FOR_EVER
    assert kept_s(replace(THERE, keep_alive_s=5.0), on_demand) == 60.0
    assert kept_s(THERE, LoadRequest(keep_alive_s=60.0)) == 60.0
    assert kept_s(None, LoadRequest()) == FOR_EVER
