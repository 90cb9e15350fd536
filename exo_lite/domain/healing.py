"""Two halves of a cluster that meet again, each with a placement of its own: one comes of them, the same on every node.

Every placement carries what its author knew, a vector clock (Fidge and Mattern, 1988), and every instance in it the dot
of its last change: who wrote it, and that author's number then. An instance whose dot the other side knew and no longer
has was replaced or unloaded there; any other stays. That is the observed-remove set of Bieniusa and others (2012,
arXiv:1210.3368): whoever hears what in whatever order, all come to hold the same. Where both sides placed the same
model, the one that serves is chosen, and the other is a sibling: it takes no new requests, and is unloaded
after its last.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from itertools import groupby

from exo_lite.domain.ids import Epoch, NodeId
from exo_lite.domain.placement import Dot, Instance, InstanceState, Placement

MAX_UNLOADED = 8
"""The number of evictions that a placement remembers."""

_SERVES: Mapping[InstanceState, int] = {"failed": 0, "degraded": 1, "loading": 2, "warming": 3, "ready": 4}


def signed(old: Placement, new: Placement, author: NodeId, *, wall_s: float) -> Placement:
    """Return what `author` writes next, in place of `old`. What is left as it was keeps its dot.

    Numbers begin with the time of day, so that one who starts with nothing does not write what others hold for old.
    """
    number = max(old.clock.get(author, 0) + 1, int(wall_s))
    before = {one: one.dot for one in old.instances}
    dotted = [replace(one, dot=before.get(one, Dot(author, number))) for one in new.instances]
    return replace(
        new,
        author=author,
        revision=old.revision + 1 if new.epoch == old.epoch and not old.is_empty else 0,
        instances=tuple(sorted(dotted, key=lambda one: (one.model_id, one.epoch))),
        unloaded=new.unloaded[-MAX_UNLOADED:],
        clock={**old.clock, author: number},
        is_restored=False,
    )


def newest(ours: Placement, theirs: Placement) -> Placement:
    """Merge two placements. The order makes no difference."""
    if ours.is_empty or theirs.is_empty:
        return theirs if ours.is_empty else ours
    if not ours.clock or not theirs.clock:  # of a version without clocks
        return max(ours, theirs, key=lambda one: one.version)
    if ours.is_restored != theirs.is_restored:
        live, restored = (theirs, ours) if ours.is_restored else (ours, theirs)
        return _with_pinned_models(live, restored)
    if _knows(ours, theirs):
        return ours
    return theirs if _knows(theirs, ours) else _merged(ours, theirs)


def _knows(one: Placement, other: Placement) -> bool:
    """Say whether the author of the one had seen the other."""
    return all(one.clock.get(author, 0) >= number for author, number in other.clock.items())


def _has_seen(placement: Placement, dot: Dot) -> bool:
    return placement.clock.get(dot.author, 0) >= dot.number


def _with_pinned_models(live: Placement, restored: Placement) -> Placement:
    """Add the models pinned before a restart that nobody else has heard of; remove nothing."""
    unheard = [one for one in restored.instances if not _has_seen(live, one.dot)]
    return _combined(live, restored, [*live.all_instances, *unheard]) if unheard else live


def _merged(one: Placement, other: Placement) -> Placement:
    mine, yours = {each.dot for each in one.all_instances}, {each.dot for each in other.all_instances}
    kept = [each for each in one.all_instances if each.dot in yours or not _has_seen(other, each.dot)]
    kept += [each for each in other.all_instances if each.dot not in mine and not _has_seen(one, each.dot)]
    return _combined(one, other, kept)


def _combined(one: Placement, other: Placement, kept: Iterable[Instance]) -> Placement:
    best_first = sorted(kept, key=_rank, reverse=True)
    by_model = groupby(sorted(best_first, key=lambda each: each.model_id), key=lambda each: each.model_id)
    chosen = [list(same) for _, same in by_model]
    newer = max(one, other, key=lambda each: each.version)
    unloaded = {*one.unloaded, *other.unloaded}
    return Placement(
        author=newer.author,
        epoch=newer.epoch,
        revision=newer.revision,
        instances=tuple(same[0] for same in chosen),
        unloaded=tuple(sorted(unloaded, key=lambda gone: (gone.epoch, gone.model_id, gone.text)))[-MAX_UNLOADED:],
        siblings=tuple(each for same in chosen for each in same[1:]),
        clock={
            key: max(one.clock.get(key, 0), other.clock.get(key, 0)) for key in one.clock.keys() | other.clock.keys()
        },
        is_restored=one.is_restored and other.is_restored,
    )


def _rank(instance: Instance) -> tuple[int, bool, Epoch, Dot]:
    """The greater, the better: it serves, or is nearest to that."""
    return _SERVES[instance.state], instance.is_pinned, instance.epoch, instance.dot
