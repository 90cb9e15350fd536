"""The plan: which node holds which layers, as a pure function of the model, the options and the nodes' offers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import assert_never

from exo_lite.domain.errors import InvalidRequest
from exo_lite.domain.ids import ModelId
from exo_lite.domain.links import ALL_WORK, KnownLinks
from exo_lite.domain.load_options import LoadOptions
from exo_lite.domain.model_spec import ModelSpec
from exo_lite.domain.plan import Assignment, NodeOffer, Plan, Refusal
from exo_lite.domain.shard import Shard
from exo_lite.planning.by_memory import split_by_memory
from exo_lite.planning.by_work import split_by_work
from exo_lite.planning.exclusions import excluded_from
from exo_lite.planning.footprint import Footprint, footprint
from exo_lite.planning.lineup import Lineup, best_lineup, carries, ranked
from exo_lite.planning.refusal import refusal, refusal_for_links
from exo_lite.planning.ring import best_ring
from exo_lite.planning.shard_bytes import head_weight_bytes, layer_weight_bytes, shard_bytes


def plan(
    model_id: ModelId, spec: ModelSpec, options: LoadOptions, offers: Sequence[NodeOffer], links: KnownLinks = ALL_WORK
) -> Plan | Refusal:
    """A contiguous split within every offer and along links that work, or the arithmetic of why there is none.

    The order of `offers` makes no difference. Raises InvalidRequest where a node offers twice.
    """
    _check_ids(offers)
    sizes = footprint(spec, options)
    in_order = ranked(offers)
    willing = [offer for offer in in_order if offer.reason is None]
    lineup = _lineup(willing, sizes, links)
    if not carries(lineup, sizes):
        if links.broken and carries(best_lineup(willing, sizes), sizes):
            return refusal_for_links(model_id, spec, options, in_order, links.broken)
        return refusal(model_id, spec, options, in_order)
    assignments = tuple(_assignments(model_id, spec, options, lineup))
    return Plan(model_id, spec.n_layers, options, assignments, excluded_from(lineup, in_order, sizes, links))


def _lineup(willing: Sequence[NodeOffer], sizes: Footprint, links: KnownLinks) -> Lineup:
    """One that leaves doubtful links alone, else one that uses them."""
    if links == ALL_WORK:
        return best_lineup(willing, sizes)
    careful = best_ring(willing, sizes, links.broken | links.doubtful)
    return careful or best_ring(willing, sizes, links.broken)


def _check_ids(offers: Sequence[NodeOffer]) -> None:
    for node_id, count in Counter(offer.node_id for offer in offers).items():
        if count > 1:
            raise InvalidRequest(f"node {node_id} stands {count} times among the offers: give each node once")


def _assignments(model_id: ModelId, spec: ModelSpec, options: LoadOptions, lineup: Lineup) -> Iterator[Assignment]:
    match options.strategy:
        case "by_memory":
            shares = split_by_memory(lineup, spec.n_layers)
        case "by_work":
            sizes = {"layer_bytes": layer_weight_bytes(spec, options), "head_bytes": head_weight_bytes(spec, options)}
            shares = split_by_work(lineup, spec.n_layers, **sizes)
        case _:
            assert_never(options.strategy)
    ends = accumulate(shares)
    for seat, share, end in zip(lineup, shares, ends, strict=True):
        shard = Shard(model_id, end - share, end - 1, spec.n_layers)
        taken = shard_bytes(spec, shard, options)
        yield Assignment(
            node_id=seat.offer.node_id,
            name=seat.offer.name,
            shard=shard,
            weight_bytes=taken.weight_bytes,
            kv_cache_bytes=taken.kv_cache_bytes,
            working_bytes=taken.working_bytes,
        )
