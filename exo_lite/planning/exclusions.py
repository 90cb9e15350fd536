"""Why a node holds nothing of a model, in words and numbers."""

from __future__ import annotations

from collections.abc import Sequence

from exo_lite.domain.links import ALL_WORK, KnownLinks, link_names, unreachable
from exo_lite.domain.plan import Exclusion
from exo_lite.domain.units import format_bytes
from exo_lite.planning.candidate import Candidate
from exo_lite.planning.stage_order import StageOrder


def excluded_from(
    order: StageOrder, candidates: Sequence[Candidate], links: KnownLinks = ALL_WORK
) -> tuple[Exclusion, ...]:
    """Every node without a stage in an order that carries the model, in the order of `candidates`."""
    used = {stage.node.node_id for stage in order}

    def reason(node: Candidate) -> str:
        return unusable_reason(node) or _unlinked_reason(node, order, links) or _spare_reason(node, order)

    return tuple(Exclusion(node.node_id, node.name, reason(node)) for node in candidates if node.node_id not in used)


def _unlinked_reason(node: Candidate, order: StageOrder, links: KnownLinks) -> str | None:
    """Names the links that keep a node out of the ring; None where all work."""
    names = {stage.node.node_id: stage.node.name for stage in order} | {node.node_id: node.name}
    own = [pair for pair in links.broken if node.node_id in pair and pair <= names.keys()]
    if own:
        return "; ".join(unreachable(pair) for pair in link_names(own, names))
    doubtful = [pair for pair in links.doubtful if node.node_id in pair and pair <= names.keys()]
    pairs = [f"{first} and {second}" for first, second in link_names(doubtful, names)]
    return f"the link between {', '.join(pairs)} failed a moment ago" if pairs else None


def unusable(candidates: Sequence[Candidate]) -> tuple[Exclusion, ...]:
    """The nodes that are unwilling, or too small for a single layer, in the order of `candidates`."""
    reasons = ((node, unusable_reason(node)) for node in candidates)
    return tuple(Exclusion(node.node_id, node.name, reason) for node, reason in reasons if reason is not None)


def unusable_reason(node: Candidate) -> str | None:
    """Why a node cannot hold any layer, at whatever place; None if it can."""
    if node.offer.reason is not None:
        return node.offer.reason
    if node.memory_bytes <= 0:
        return "offers no memory"
    if node.in_middle:
        return None
    sizes = node.sizes
    needed = format_bytes(sizes.middle_bytes + sizes.layer_bytes, round_up=True)
    return (
        f"offers {format_bytes(node.memory_bytes)}, but a single layer takes {needed}:"
        f" {format_bytes(sizes.layer_bytes)} of weights and KV cache,"
        f" {format_bytes(sizes.middle_bytes)} of working space"
    )


def _spare_reason(node: Candidate, order: StageOrder) -> str:
    offered, sizes = format_bytes(node.memory_bytes), node.sizes
    if len(order) == sizes.n_layers:
        noun = "layer is held by a node that offers" if sizes.n_layers == 1 else "layers are held by nodes that offer"
        return f"offers {offered}, and all of the model's {sizes.n_layers} {noun} as much or more"
    least = min(sizes.first_bytes, sizes.last_bytes) + sizes.layer_bytes
    return (
        f"offers {offered}: beside {order[0].node.name}, which holds the model alone, it would need at least"
        f" {format_bytes(least, round_up=True)} for one layer with the embedding or the output head"
    )
