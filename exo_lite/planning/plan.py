"""The plan: which node holds which layers, as a pure function of the model, the options and the nodes' offers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import assert_never

from exo_lite.domain.engine import DEFAULT_ENGINE
from exo_lite.domain.errors import InvalidRequest
from exo_lite.domain.ids import ModelId
from exo_lite.domain.links import ALL_WORK, KnownLinks
from exo_lite.domain.load_options import LoadOptions
from exo_lite.domain.plan import Assignment, NodeOffer, Plan, Refusal
from exo_lite.domain.shard import Shard
from exo_lite.planning.by_memory import split_by_memory
from exo_lite.planning.by_work import split_by_work
from exo_lite.planning.candidate import Candidate, FootprintOf, ranked
from exo_lite.planning.exclusions import excluded_from
from exo_lite.planning.refusal import refusal, refusal_for_links
from exo_lite.planning.ring import best_ring
from exo_lite.planning.stage_order import StageOrder, best_order, carries


def plan(
    model_id: ModelId,
    n_layers: int,
    options: LoadOptions,
    offers: Sequence[NodeOffer],
    footprint_of: FootprintOf,
    links: KnownLinks = ALL_WORK,
) -> Plan | Refusal:
    """A contiguous split within every offer and along links that work, or the arithmetic of why there is none.

    `footprint_of` says what the model takes under `options` with the engine of an offer. The order of `offers` makes no
    difference. Raises InvalidRequest where a node offers twice.
    """
    _check_ids(offers)
    in_order = ranked(offers, footprint_of)
    willing = [node for node in in_order if node.offer.reason is None]
    order = _stage_order(willing, n_layers, links)
    if not carries(order, n_layers):
        sizes = in_order[0].sizes if in_order else footprint_of(DEFAULT_ENGINE)
        if links.broken and carries(best_order(willing, n_layers), n_layers):
            return refusal_for_links(model_id, sizes, options, in_order, links.broken)
        return refusal(model_id, sizes, options, in_order)
    assignments = tuple(_assignments(model_id, n_layers, options, order))
    return Plan(model_id, n_layers, options, assignments, excluded_from(order, in_order, links))


def _stage_order(willing: Sequence[Candidate], n_layers: int, links: KnownLinks) -> StageOrder:
    """One that leaves doubtful links alone, else one that uses them."""
    if links == ALL_WORK:
        return best_order(willing, n_layers)
    careful = best_ring(willing, n_layers, links.broken | links.doubtful)
    return careful or best_ring(willing, n_layers, links.broken)


def _check_ids(offers: Sequence[NodeOffer]) -> None:
    for node_id, count in Counter(offer.node_id for offer in offers).items():
        if count > 1:
            raise InvalidRequest(f"node {node_id} stands {count} times among the offers: give each node once")


def _assignments(model_id: ModelId, n_layers: int, options: LoadOptions, order: StageOrder) -> Iterator[Assignment]:
    match options.strategy:
        case "by_memory":
            shares = split_by_memory(order, n_layers)
        case "by_work":
            sizes = order[0].node.sizes
            work = {"layer_bytes": sizes.layer.weight_bytes, "lm_head_bytes": sizes.lm_head_bytes}
            shares = split_by_work(order, n_layers, **work)
        case _:
            assert_never(options.strategy)
    ends = accumulate(shares)
    for stage, share, end in zip(order, shares, ends, strict=True):
        shard = Shard(model_id, end - share, end - 1, n_layers)
        taken = stage.node.sizes.of(shard)
        yield Assignment(
            node_id=stage.node.node_id,
            name=stage.node.name,
            shard=shard,
            weight_bytes=taken.weight_bytes,
            kv_cache_bytes=taken.kv_cache_bytes,
            working_bytes=taken.working_bytes,
        )
