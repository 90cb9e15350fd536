"""Why a node holds nothing of a model, in words and numbers."""

from __future__ import annotations

from collections.abc import Sequence

from exo_lite.domain.links import ALL_WORK, KnownLinks, link_names, unreachable
from exo_lite.domain.plan import Exclusion, NodeOffer
from exo_lite.domain.units import format_bytes
from exo_lite.planning.footprint import Footprint
from exo_lite.planning.lineup import Lineup


def excluded_from(
    lineup: Lineup, offers: Sequence[NodeOffer], sizes: Footprint, links: KnownLinks = ALL_WORK
) -> tuple[Exclusion, ...]:
    """Every node without a seat in a line that carries the model, in the order of `offers`."""
    seated = {seat.offer.node_id for seat in lineup}

    def reason(offer: NodeOffer) -> str:
        unusable = unusable_reason(offer, sizes)
        return unusable or _unlinked_reason(offer, lineup, links) or _spare_reason(offer, lineup, sizes)

    return tuple(Exclusion(offer.node_id, offer.name, reason(offer)) for offer in offers if offer.node_id not in seated)


def _unlinked_reason(offer: NodeOffer, lineup: Lineup, links: KnownLinks) -> str | None:
    """Names the links that keep a node out of the ring; None where all work."""
    names = {seat.offer.node_id: seat.offer.name for seat in lineup} | {offer.node_id: offer.name}
    own = [pair for pair in links.broken if offer.node_id in pair and pair <= names.keys()]
    if own:
        return "; ".join(unreachable(pair) for pair in link_names(own, names))
    doubtful = [pair for pair in links.doubtful if offer.node_id in pair and pair <= names.keys()]
    pairs = [f"{first} and {second}" for first, second in link_names(doubtful, names)]
    return f"the link between {', '.join(pairs)} failed a moment ago" if pairs else None


def unusable(offers: Sequence[NodeOffer], sizes: Footprint) -> tuple[Exclusion, ...]:
    """The nodes that are unwilling, or too small for a single layer, in the order of `offers`."""
    reasons = ((offer, unusable_reason(offer, sizes)) for offer in offers)
    return tuple(Exclusion(offer.node_id, offer.name, reason) for offer, reason in reasons if reason is not None)


def unusable_reason(offer: NodeOffer, sizes: Footprint) -> str | None:
    """Why a node cannot hold any layer, wherever in the line; None if it can."""
    if offer.reason is not None:
        return offer.reason
    if offer.memory_bytes <= 0:
        return "offers no memory"
    if sizes.capacity(offer.memory_bytes, sizes.middle_bytes):
        return None
    needed = format_bytes(sizes.middle_bytes + sizes.layer_bytes, round_up=True)
    return (
        f"offers {format_bytes(offer.memory_bytes)}, but a single layer takes {needed}:"
        f" {format_bytes(sizes.layer_bytes)} of weights and KV cache,"
        f" {format_bytes(sizes.middle_bytes)} of working space"
    )


def _spare_reason(offer: NodeOffer, lineup: Lineup, sizes: Footprint) -> str:
    offered = format_bytes(offer.memory_bytes)
    if len(lineup) == sizes.n_layers:
        noun = "layer is held by a node that offers" if sizes.n_layers == 1 else "layers are held by nodes that offer"
        return f"offers {offered}, and all of the model's {sizes.n_layers} {noun} as much or more"
    least = min(sizes.first_bytes, sizes.last_bytes) + sizes.layer_bytes
    return (
        f"offers {offered}: beside {lineup[0].offer.name}, which holds the model alone, it would need at least"
        f" {format_bytes(least, round_up=True)} for one layer with the embedding or the head"
    )
