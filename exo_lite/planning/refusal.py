"""The arithmetic of a model that does not fit, for people to read."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace

from exo_lite.domain.footprint import Footprint
from exo_lite.domain.ids import ModelId
from exo_lite.domain.links import Link, link_names, unreachable
from exo_lite.domain.load_options import LoadOptions
from exo_lite.domain.plan import Refusal
from exo_lite.domain.shard import Shard
from exo_lite.domain.units import format_bytes
from exo_lite.planning.candidate import Candidate
from exo_lite.planning.exclusions import unusable, unusable_reason
from exo_lite.planning.stage_order import StageOrder, best_order, carries, num_layers_carried

MAX_NODES_NAMED = 8


def refusal(model_id: ModelId, sizes: Footprint, options: LoadOptions, candidates: Sequence[Candidate]) -> Refusal:
    """Needed, offered, short by, what each node has room for, and what would help. `candidates` stand in rank order.

    `needed_bytes` is the whole model on one node, by `sizes`; `available_bytes` what the willing nodes offer in all.
    """
    willing = _willing(candidates)
    order = best_order(willing, sizes.n_layers)
    sentences = [
        f"{_needed(model_id, sizes, options)}; {_shortage(willing, order, sizes)}.",
        *_rooms(candidates, order),
        _way_out(willing, options),
    ]
    return Refusal(
        model_id=model_id,
        n_layers=sizes.n_layers,
        options=options,
        reason=" ".join(sentences),
        needed_bytes=sizes.model_bytes,
        available_bytes=_total_bytes(willing),
        excluded=unusable(candidates),
    )


def refusal_for_links(
    model_id: ModelId,
    sizes: Footprint,
    options: LoadOptions,
    candidates: Sequence[Candidate],
    broken: Collection[Link],
) -> Refusal:
    """There is memory enough, on nodes that are no ring of links that work."""
    willing = _willing(candidates)
    names = {node.node_id: node.name for node in willing}
    cut = link_names([pair for pair in broken if pair <= names.keys()], names)
    available_bytes = _total_bytes(willing)
    return Refusal(
        model_id=model_id,
        n_layers=sizes.n_layers,
        options=options,
        reason=(
            f"{_needed(model_id, sizes, options)}; {_offer(len(willing))} {format_bytes(available_bytes)} in all, "
            f"which would be enough, but {' and '.join(map(unreachable, cut))}, and the others have too little. "
            f"Allow the ports of exo-lite's nodes through the firewalls between them, or offer more memory elsewhere."
        ),
        needed_bytes=sizes.model_bytes,
        available_bytes=available_bytes,
        excluded=unusable(candidates),
        broken_links=tuple(cut),
    )


def extra_bytes_to_fit(candidates: Sequence[Candidate]) -> int:
    """The least that the first of `candidates`, the largest, must offer in addition for the model to fit.

    Needs candidates in rank order, at least one, that do not fit as they are.
    """
    largest, *others = candidates
    n_layers = largest.sizes.n_layers
    too_little, enough = 0, largest.sizes.model_bytes
    while enough - too_little > 1:
        extra = (too_little + enough) // 2
        boosted = replace(largest, offer=replace(largest.offer, memory_bytes=largest.memory_bytes + extra))
        if carries(best_order([boosted, *others], n_layers), n_layers):
            enough = extra
        else:
            too_little = extra
    return enough


def _willing(candidates: Sequence[Candidate]) -> list[Candidate]:
    return [node for node in candidates if node.offer.reason is None and node.memory_bytes > 0]


def _needed(model_id: ModelId, sizes: Footprint, options: LoadOptions) -> str:
    whole = sizes.of(Shard(model_id, 0, sizes.n_layers - 1, sizes.n_layers))
    return (
        f"{model_id} needs {format_bytes(whole.memory_bytes)}: {format_bytes(whole.weight_bytes)} of weights,"
        f" {format_bytes(whole.kv_cache_bytes)} of KV cache for {options.num_slots} x {options.context_length} tokens"
        f" and {format_bytes(whole.working_bytes)} of working space"
    )


def _shortage(willing: Sequence[Candidate], order: StageOrder, sizes: Footprint) -> str:
    if not willing:
        return f"no node offers memory: short by {format_bytes(sizes.model_bytes)}"
    available_bytes = _total_bytes(willing)
    offered = f"{_offer(len(willing))} {format_bytes(available_bytes)} in all"
    if available_bytes < sizes.model_bytes:
        return f"{offered}: short by {format_bytes(sizes.model_bytes - available_bytes)}"
    num_carried = num_layers_carried(order)
    num_missing = sizes.n_layers - num_carried
    return (
        f"{offered}, but in whole layers, each node with its own working space, only {num_carried} of"
        f" {sizes.n_layers} layers fit: short by {_layers(num_missing)} or"
        f" {format_bytes(num_missing * sizes.layer_bytes)}"
    )


def _rooms(candidates: Sequence[Candidate], order: StageOrder) -> list[str]:
    """A sentence per node: first those with a place, in their order, then the others, the largest first."""
    used = {stage.node.node_id for stage in order}
    unused = [node for node in candidates if node.node_id not in used]
    sentences = [*_stage_sentences(order), *map(_unused_sentence, unused)]
    left_out = [*(stage.node for stage in order), *unused][MAX_NODES_NAMED:]
    if not left_out:
        return sentences
    num_layers = sum(stage.capacity for stage in order[MAX_NODES_NAMED:])
    willing = [node for node in left_out if node.offer.reason is None]
    return [
        *sentences[:MAX_NODES_NAMED],
        f"{len(left_out)} more: offer {format_bytes(_total_bytes(willing))} in all, room for {_layers(num_layers)}.",
    ]


def _stage_sentences(order: StageOrder) -> Iterable[str]:
    for index, stage in enumerate(order):
        edges = ["the embedding"] * (index == 0) + ["the output head"] * (index == len(order) - 1)
        beside = f" beside {' and '.join(edges)}" if edges else ""
        offered = format_bytes(stage.node.memory_bytes)
        yield f"{stage.node.name}: offers {offered}, room for {_layers(stage.capacity)}{beside}."


def _unused_sentence(node: Candidate) -> str:
    reason, sizes = unusable_reason(node), node.sizes
    if reason is not None:
        return f"{node.name}: {reason}."
    return (
        f"{node.name}: offers {format_bytes(node.memory_bytes)}, room for {_layers(node.in_middle)} in the middle,"
        f" where one layer with the embedding takes {format_bytes(sizes.first_bytes + sizes.layer_bytes)}, with the"
        f" output head {format_bytes(sizes.last_bytes + sizes.layer_bytes)}."
    )


def _way_out(willing: Sequence[Candidate], options: LoadOptions) -> str:
    raise_offer = ""
    if willing:
        extra = format_bytes(extra_bytes_to_fit(willing), round_up=True)
        raise_offer = f", offer {extra} more on {willing[0].name}"
    smaller = " or fewer slots" if options.quant == "int4" else ", fewer slots or a smaller quantization"
    return f"Add nodes{raise_offer}, or take a shorter context{smaller}."


def _total_bytes(nodes: Sequence[Candidate]) -> int:
    return sum(max(0, node.memory_bytes) for node in nodes)


def _offer(num_nodes: int) -> str:
    return "1 node offers" if num_nodes == 1 else f"{num_nodes} nodes offer"


def _layers(count: int) -> str:
    return "1 layer" if count == 1 else f"{count} layers"
