"""The leader's next placement: pure functions of the old placement and one command.

`healing.signed` makes of it what others accept: with its author, its number and the time.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from exo_lite.domain.ids import Epoch, InstanceId, ModelId
from exo_lite.domain.keep_alive import FOR_EVER
from exo_lite.domain.load_options import LoadRequest
from exo_lite.domain.placement import Dot, Instance, ModelDescription, Placement, UnloadedModel
from exo_lite.domain.plan import Plan


def next_epoch(old: Placement) -> Epoch:
    return Epoch(old.epoch + 1)


def new_instance(
    old: Placement, model: ModelDescription, plan: Plan, reason: str | None, keep_alive_s: float
) -> Instance:
    return Instance(
        model_id=model.model_id,
        fingerprint=model.fingerprint,
        spec=model.spec,
        epoch=next_epoch(old),
        options=plan.options,
        assignments=plan.assignments,
        state="loading",
        reason=reason,
        keep_alive_s=keep_alive_s,
    )


def placed(old: Placement, new: Instance, evicting: Collection[InstanceId]) -> Placement:
    """A new instance stands in place of those of its model, and of those that are evicted for it."""
    staying = (one for one in old.instances if one.model_id != new.model_id and one.id not in evicting)
    text = f"was evicted to make room for {new.model_id}"
    gone = (UnloadedModel(one.model_id, new.epoch, f"{one.model_id} {text}") for one in evicting)
    return replace(old, epoch=new.epoch, instances=(*staying, new), unloaded=(*old.unloaded, *gone))


def changed(old: Placement, instance: Instance) -> Placement:
    """An instance has come to another state, or is kept for another time."""
    return replace(old, instances=tuple(instance if one.id == instance.id else one for one in old.instances))


def unloaded(old: Placement, model_id: ModelId) -> Placement:
    """Nothing of a model stays."""
    instances = [one.id for one in old.all_instances if one.model_id == model_id]
    return _without(old, instances, f"{model_id} was unloaded")


def evicted(old: Placement, instance_id: InstanceId, reason: str) -> Placement:
    """Evict an instance, and its siblings, which only finish what they have, with the last one of their model."""
    model_id = instance_id.model_id
    is_last = all(one.id == instance_id for one in old.instances if one.model_id == model_id)
    siblings = [one.id for one in old.siblings if one.model_id == model_id] if is_last else []
    return _without(old, [instance_id, *siblings], f"{model_id} was evicted: {reason}")


def without_sibling(old: Placement, dot: Dot) -> Placement:
    """An instance that was not chosen when two halves met has finished what it had."""
    return replace(old, siblings=tuple(one for one in old.siblings if one.dot != dot))


def kept_s(existing: Instance | None, request: LoadRequest) -> float:
    """How long a model is kept from now on: a request does not unpin what somebody pinned."""
    if request.keep_alive_s is None or (request.is_on_demand and existing is not None and existing.is_pinned):
        return FOR_EVER
    return request.keep_alive_s


def _without(old: Placement, removed: Collection[InstanceId], text: str) -> Placement:
    epoch = next_epoch(old)
    gone = (UnloadedModel(model_id, epoch, text) for model_id in {one.model_id for one in removed})
    return replace(
        old,
        epoch=epoch,
        instances=tuple(one for one in old.instances if one.id not in removed),
        siblings=tuple(one for one in old.siblings if one.id not in removed),
        unloaded=(*old.unloaded, *gone),
    )
