"""The arithmetic of a model that does not fit, for people to read."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace

from exo_lite.domain.ids import ModelId
from exo_lite.domain.links import Link, link_names, unreachable
from exo_lite.domain.load_options import LoadOptions
from exo_lite.domain.model_spec import ModelSpec
from exo_lite.domain.plan import NodeOffer, Refusal
from exo_lite.domain.shard import Shard
from exo_lite.domain.units import format_bytes
from exo_lite.planning.exclusions import unusable, unusable_reason
from exo_lite.planning.footprint import Footprint, footprint
from exo_lite.planning.lineup import Lineup, best_lineup, carries, num_layers_carried
from exo_lite.planning.shard_bytes import shard_bytes

MAX_NODES_NAMED = 8


def refusal(model_id: ModelId, spec: ModelSpec, options: LoadOptions, offers: Sequence[NodeOffer]) -> Refusal:
    """Needed, offered, short by, what each node has room for, and what would help. `offers` stand in rank order.

    `needed_bytes` is the whole model on one node, `available_bytes` what the willing nodes offer in all.
    """
    sizes = footprint(spec, options)
    willing = [offer for offer in offers if offer.reason is None and offer.memory_bytes > 0]
    lineup = best_lineup(willing, sizes)
    sentences = [
        f"{_needed(model_id, spec, options)}; {_shortage(willing, lineup, sizes)}.",
        *_rooms(offers, lineup, sizes),
        _way_out(willing, sizes, options),
    ]
    return Refusal(
        model_id=model_id,
        n_layers=spec.n_layers,
        options=options,
        reason=" ".join(sentences),
        needed_bytes=sizes.model_bytes,
        available_bytes=_total_bytes(willing),
        excluded=unusable(offers, sizes),
    )


def refusal_for_links(
    model_id: ModelId, spec: ModelSpec, options: LoadOptions, offers: Sequence[NodeOffer], broken: Collection[Link]
) -> Refusal:
    """There is memory enough, on nodes that are no ring of links that work."""
    willing = [offer for offer in offers if offer.reason is None and offer.memory_bytes > 0]
    names = {offer.node_id: offer.name for offer in willing}
    cut = link_names([pair for pair in broken if pair <= names.keys()], names)
    available_bytes = _total_bytes(willing)
    return Refusal(
        model_id=model_id,
        n_layers=spec.n_layers,
        options=options,
        reason=(
            f"{_needed(model_id, spec, options)}; {_offer(len(willing))} {format_bytes(available_bytes)} in all, which "
            f"would do, but {' and '.join(map(unreachable, cut))}: those that can are too few. "
            f"Let the port of exo-lite's nodes through the firewalls between them, or offer more memory elsewhere."
        ),
        needed_bytes=footprint(spec, options).model_bytes,
        available_bytes=available_bytes,
        excluded=unusable(offers, footprint(spec, options)),
        broken_links=tuple(cut),
    )


def extra_bytes_to_fit(offers: Sequence[NodeOffer], sizes: Footprint) -> int:
    """The least that the first of `offers`, the largest, must offer in addition for the model to fit.

    Needs offers in rank order, at least one, that do not fit as they are.
    """
    largest, *others = offers
    too_little, enough = 0, sizes.model_bytes
    while enough - too_little > 1:
        extra = (too_little + enough) // 2
        boosted = replace(largest, memory_bytes=largest.memory_bytes + extra)
        if carries(best_lineup([boosted, *others], sizes), sizes):
            enough = extra
        else:
            too_little = extra
    return enough


def _needed(model_id: ModelId, spec: ModelSpec, options: LoadOptions) -> str:
    whole = shard_bytes(spec, Shard(model_id, 0, spec.n_layers - 1, spec.n_layers), options)
    return (
        f"{model_id} needs {format_bytes(whole.memory_bytes)}: {format_bytes(whole.weight_bytes)} of weights,"
        f" {format_bytes(whole.kv_cache_bytes)} of KV cache for {options.num_slots} x {options.context_length} tokens"
        f" and {format_bytes(whole.working_bytes)} of working space"
    )


def _shortage(willing: Sequence[NodeOffer], lineup: Lineup, sizes: Footprint) -> str:
    if not willing:
        return f"no node offers memory: short by {format_bytes(sizes.model_bytes)}"
    available_bytes = _total_bytes(willing)
    offered = f"{_offer(len(willing))} {format_bytes(available_bytes)} in all"
    if available_bytes < sizes.model_bytes:
        return f"{offered}: short by {format_bytes(sizes.model_bytes - available_bytes)}"
    num_carried = num_layers_carried(lineup)
    num_missing = sizes.n_layers - num_carried
    return (
        f"{offered}, but in whole layers, each node with its own working space, only {num_carried} of"
        f" {sizes.n_layers} layers find room: short by {_layers(num_missing)} or"
        f" {format_bytes(num_missing * sizes.layer_bytes)}"
    )


def _rooms(offers: Sequence[NodeOffer], lineup: Lineup, sizes: Footprint) -> list[str]:
    """A sentence per node: first those with a place, in their order, then the others, the largest first."""
    seated = {seat.offer.node_id for seat in lineup}
    unseated = [offer for offer in offers if offer.node_id not in seated]
    sentences = [*_seat_sentences(lineup), *(_unseated_sentence(offer, sizes) for offer in unseated)]
    left_out = [*(seat.offer for seat in lineup), *unseated][MAX_NODES_NAMED:]
    if not left_out:
        return sentences
    num_layers = sum(seat.capacity for seat in lineup[MAX_NODES_NAMED:])
    willing = [offer for offer in left_out if offer.reason is None]
    return [
        *sentences[:MAX_NODES_NAMED],
        f"{len(left_out)} more: offer {format_bytes(_total_bytes(willing))} in all, room for {_layers(num_layers)}.",
    ]


def _seat_sentences(lineup: Lineup) -> Iterable[str]:
    for index, seat in enumerate(lineup):
        edges = ["the embedding"] * (index == 0) + ["the head"] * (index == len(lineup) - 1)
        beside = f" beside {' and '.join(edges)}" if edges else ""
        offered = format_bytes(seat.offer.memory_bytes)
        yield f"{seat.offer.name}: offers {offered}, room for {_layers(seat.capacity)}{beside}."


def _unseated_sentence(offer: NodeOffer, sizes: Footprint) -> str:
    reason = unusable_reason(offer, sizes)
    if reason is not None:
        return f"{offer.name}: {reason}."
    num_layers = sizes.capacity(offer.memory_bytes, sizes.middle_bytes)
    return (
        f"{offer.name}: offers {format_bytes(offer.memory_bytes)}, room for {_layers(num_layers)} in the middle, where"
        f" one layer with the embedding takes {format_bytes(sizes.first_bytes + sizes.layer_bytes)}, with the head"
        f" {format_bytes(sizes.last_bytes + sizes.layer_bytes)}."
    )


def _way_out(willing: Sequence[NodeOffer], sizes: Footprint, options: LoadOptions) -> str:
    raise_offer = ""
    if willing:
        extra = format_bytes(extra_bytes_to_fit(willing, sizes), round_up=True)
        raise_offer = f", offer {extra} more on {willing[0].name}"
    smaller = " or fewer slots" if options.quant == "int4" else ", fewer slots or a smaller quantization"
    return f"Add nodes{raise_offer}, or take a shorter context{smaller}."


def _total_bytes(offers: Sequence[NodeOffer]) -> int:
    return sum(max(0, offer.memory_bytes) for offer in offers)


def _offer(num_nodes: int) -> str:
    return "1 node offers" if num_nodes == 1 else f"{num_nodes} nodes offer"


def _layers(count: int) -> str:
    return "1 layer" if count == 1 else f"{count} layers"
