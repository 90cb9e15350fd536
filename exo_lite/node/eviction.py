"""Memory for a model: which idle ones are evicted for it, decided before any of them is. Pure."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace

from exo_lite.domain.cluster_state import ClusterState
from exo_lite.domain.ids import InstanceId, ModelId
from exo_lite.domain.links import Link, known_links
from exo_lite.domain.load_options import LoadOptions
from exo_lite.domain.placement import Instance, ModelDescription
from exo_lite.domain.plan import Plan, Refusal
from exo_lite.engine.table import footprints
from exo_lite.node.decisions import idle_s, offers
from exo_lite.planning.plan import plan


@dataclass(frozen=True, slots=True)
class PlanWithEvictions:
    """A plan that holds once the instances `evicted` are unloaded."""

    plan: Plan
    evicted: tuple[InstanceId, ...] = ()


def plan_with_evictions(
    state: ClusterState, model: ModelDescription, options: LoadOptions, doubtful: Collection[Link] = ()
) -> PlanWithEvictions | Refusal:
    """Plan beside what is loaded; else in place of idle models, the least recently used first, as few as needed.

    `doubtful`: links that failed lately, not to be used where that is possible.
    """

    def plan_without(evicted: Collection[InstanceId]) -> Plan | Refusal:
        left = offers(_without(state, evicted), model.model_id, model.fingerprint)
        return plan(model.model_id, model.spec.n_layers, options, left, sizes, links)

    sizes = footprints(model.spec, options)
    links = known_links(state, doubtful)
    outcome = plan_without(())
    if isinstance(outcome, Plan):
        return PlanWithEvictions(outcome)
    idle = _idle_instances(state, model.model_id)
    for count in range(1, len(idle) + 1):
        outcome = plan_without(idle[:count])
        if isinstance(outcome, Plan):
            return _spare(idle[:count], outcome, plan_without)
    anywhere = offers(state, model.model_id, None)
    if isinstance(plan(model.model_id, model.spec.n_layers, options, anywhere, sizes, links), Plan):
        return _for_files(outcome, state, model)
    return _with_others(outcome, state, idle)


def _for_files(refusal: Refusal, state: ClusterState, model: ModelDescription) -> Refusal:
    """There would be enough memory: only files are missing."""
    without = [offer for offer in offers(state, model.model_id, model.fingerprint) if offer.reason is not None]
    reasons = "; ".join(f"{offer.name} {offer.reason}" for offer in sorted(without, key=lambda offer: offer.name))
    reason = f"{model.model_id} would fit, if more nodes had its files: {reasons}"
    return replace(refusal, reason=reason, lacks_files=True)


def _spare(
    evicted: list[InstanceId], outcome: Plan, plan_without: Callable[[Collection[InstanceId]], Plan | Refusal]
) -> PlanWithEvictions:
    """Keep those, the most recently used first, whose eviction would not help."""
    for instance_id in evicted[::-1]:
        others = [one for one in evicted if one != instance_id]
        without_it = plan_without(others)
        if isinstance(without_it, Plan):
            evicted, outcome = others, without_it
    return PlanWithEvictions(outcome, tuple(evicted))


def _without(state: ClusterState, evicted: Collection[InstanceId]) -> ClusterState:
    staying = tuple(one for one in state.written.instances if one.id not in evicted)
    return replace(state, written=replace(state.written, instances=staying))


def _idle_instances(state: ClusterState, for_model: ModelId) -> list[InstanceId]:
    """Return the models that may be evicted, the least recently used first."""
    idle = {
        one.id: seconds
        for one in _others(state, for_model)
        if not one.is_pinned and (seconds := idle_s(state, one)) is not None
    }
    return sorted(idle, key=lambda one: (-idle[one], one.model_id, one.epoch))


def _others(state: ClusterState, model_id: ModelId) -> list[Instance]:
    """Every instance of another model that takes memory."""
    return [one for one in state.written.instances if one.model_id != model_id and one.state != "failed"]


def _with_others(refusal: Refusal, state: ClusterState, idle: Collection[InstanceId]) -> Refusal:
    """The arithmetic, with a word on each model that stays or would be evicted."""
    words = [_word(one, is_idle=one.id in idle) for one in _others(state, refusal.model_id)]
    return replace(refusal, reason=" ".join([refusal.reason, *words])) if words else refusal


def _word(other: Instance, *, is_idle: bool) -> str:
    if is_idle:
        return f"This counts the memory of {other.model_id}, which is idle, as free."
    if other.is_pinned:
        return f"{other.model_id} is pinned and stays loaded: `exo-lite unload {other.model_id}` frees its memory."
    return f"{other.model_id} stays loaded: it {'has requests' if other.state == 'ready' else f'is {other.state}'}."
