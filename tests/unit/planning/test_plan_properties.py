"""What every plan and every refusal must keep, checked against a search of all splits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from random import Random
from typing import get_args

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from exo_lite.domain.ids import ModelId, NodeId
from exo_lite.domain.load_options import LoadOptions, Strategy
from exo_lite.domain.model_spec import ModelSpec
from exo_lite.domain.plan import NodeOffer, Plan, Refusal
from exo_lite.domain.shard import Shard
from exo_lite.engine.table import footprints
from exo_lite.engine.torch_c.footprint import footprint
from exo_lite.planning.candidate import ranked
from exo_lite.planning.refusal import extra_bytes_to_fit
from tests.planned import plan, shard_bytes

MODEL_ID = ModelId("small")
Case = tuple[ModelSpec, LoadOptions, list[NodeOffer]]


def small_spec(n_layers: int, vocab_size: int, *, is_tied: bool) -> ModelSpec:
    return ModelSpec("llama", n_layers, 8, 12, 2, 1, 4, vocab_size, 64, tie_word_embeddings=is_tied)


@st.composite
def models(draw: st.DrawFn, max_layers: int = 6) -> tuple[ModelSpec, LoadOptions]:
    n_layers = draw(st.integers(1, max_layers))
    vocab_size = draw(st.sampled_from([1, 50, 400, 3000]))
    options = LoadOptions(
        "bfloat16",
        draw(st.sampled_from(["none", "int8", "int4"])),
        context_length=draw(st.sampled_from([1, 4, 64])),
        num_slots=draw(st.integers(1, 3)),
        strategy=draw(st.sampled_from(get_args(Strategy))),
    )
    return small_spec(n_layers, vocab_size, is_tied=draw(st.booleans())), options


@st.composite
def memory_sizes(draw: st.DrawFn, spec: ModelSpec, options: LoadOptions) -> int:
    """Often right at, just above or just below what some number of layers takes in some place."""
    sizes = footprint(spec, options)
    place = draw(st.sampled_from([0, sizes.middle_bytes, sizes.first_bytes, sizes.last_bytes, sizes.only_bytes]))
    exact = place + draw(st.integers(0, spec.n_layers)) * sizes.layer_bytes + draw(st.integers(-1, 1))
    return max(0, draw(st.sampled_from([exact, draw(st.integers(0, sizes.model_bytes))])))


@st.composite
def cases(draw: st.DrawFn, max_layers: int = 6, max_nodes: int = 4) -> Case:
    spec, options = draw(models(max_layers))
    num_nodes = draw(st.integers(0, max_nodes))
    offers = [
        NodeOffer(
            NodeId(f"id-{index}"),
            f"node-{index}",
            draw(memory_sizes(spec, options)),
            draw(st.sampled_from([None, None, None, None, "is leaving"])),
        )
        for index in range(num_nodes)
    ]
    return spec, options, offers


def most_nodes(spec: ModelSpec, options: LoadOptions, offers: Sequence[NodeOffer], start_layer: int = 0) -> int | None:
    """The most nodes over which layers from `start_layer` on have a split; None if they have none. Tries all."""
    if start_layer == spec.n_layers:
        return 0
    counts = []
    for end_layer in range(start_layer, spec.n_layers):
        needed = shard_bytes(spec, Shard(MODEL_ID, start_layer, end_layer, spec.n_layers), options).memory_bytes
        for offer in offers:
            if offer.reason is None and needed <= offer.memory_bytes:
                others = [other for other in offers if other is not offer]
                counts.append(most_nodes(spec, options, others, end_layer + 1))
    return max((1 + count for count in counts if count is not None), default=None)


@given(cases())
@settings(max_examples=400, deadline=None)
def test_refuses_only_what_no_split_fits_and_else_uses_the_most_nodes(case: Case) -> None:
    spec, options, offers = case
    result = plan(MODEL_ID, spec, options, offers)
    expected = most_nodes(spec, options, offers)
    assert (len(result.assignments) if isinstance(result, Plan) else None) == expected


@given(cases(max_layers=40, max_nodes=12))
@settings(deadline=None)
def test_every_layer_is_held_once_in_order_within_every_limit(case: Case) -> None:
    spec, options, offers = case
    result = plan(MODEL_ID, spec, options, offers)
    assume(isinstance(result, Plan))
    assert isinstance(result, Plan)
    held = [layer for assignment in result.assignments for layer in assignment.shard.layers]
    assert held == list(range(spec.n_layers))
    offered = {offer.node_id: offer for offer in offers}
    for assignment in result.assignments:
        taken = shard_bytes(spec, assignment.shard, options)
        assert assignment.memory_bytes == taken.memory_bytes <= offered[assignment.node_id].memory_bytes
        assert offered[assignment.node_id].reason is None


@given(cases(max_layers=40, max_nodes=12))
@settings(deadline=None)
def test_every_node_holds_layers_or_is_excluded_with_a_reason(case: Case) -> None:
    spec, options, offers = case
    result = plan(MODEL_ID, spec, options, offers)
    assume(isinstance(result, Plan))
    assert isinstance(result, Plan)
    named = [part.node_id for part in result.assignments] + [one.node_id for one in result.excluded]
    assert sorted(named) == sorted(offer.node_id for offer in offers)
    assert all(exclusion.reason for exclusion in result.excluded)


@given(cases(), st.data())
@settings(deadline=None)
def test_more_memory_never_turns_a_plan_into_a_refusal(case: Case, data: st.DataObject) -> None:
    spec, options, offers = case
    assume(offers)
    more = data.draw(st.lists(st.integers(0, 20_000), min_size=len(offers), max_size=len(offers)))
    richer = [
        replace(offer, memory_bytes=offer.memory_bytes + extra) for offer, extra in zip(offers, more, strict=True)
    ]
    if isinstance(plan(MODEL_ID, spec, options, offers), Plan):
        assert isinstance(plan(MODEL_ID, spec, options, richer), Plan)


@given(cases(max_layers=20, max_nodes=8), st.randoms(use_true_random=False))
@settings(deadline=None)
def test_the_order_of_offers_makes_no_difference(case: Case, random: Random) -> None:
    spec, options, offers = case
    shuffled = random.sample(offers, len(offers))
    assert plan(MODEL_ID, spec, options, shuffled) == plan(MODEL_ID, spec, options, offers)


@given(st.lists(st.integers(20, 100), min_size=1, max_size=8), st.integers(40, 80), st.booleans())
@settings(deadline=None)
def test_shares_are_proportional_where_memory_is_ample(weights: list[int], n_layers: int, is_tied: bool) -> None:
    spec, options = small_spec(n_layers, 50, is_tied=is_tied), LoadOptions("bfloat16", context_length=4)
    unit = footprint(spec, options).model_bytes
    offers = [NodeOffer(NodeId(f"id-{index}"), "n", weight * unit) for index, weight in enumerate(weights)]
    result = plan(MODEL_ID, spec, options, offers)
    assert isinstance(result, Plan)
    by_id = {offer.node_id: offer.memory_bytes for offer in offers}
    for assignment in result.assignments:
        exact = Fraction(n_layers * by_id[assignment.node_id], sum(by_id.values()))
        assert abs(assignment.shard.num_layers - exact) < 1


@given(cases())
@settings(deadline=None)
def test_what_a_refusal_asks_for_is_enough_and_not_more(case: Case) -> None:
    spec, options, offers = case
    candidates = ranked([offer for offer in offers if offer.reason is None], footprints(spec, options))
    willing = [one.offer for one in candidates]
    assume(willing and isinstance(plan(MODEL_ID, spec, options, willing), Refusal))
    extra = extra_bytes_to_fit(candidates)
    for added, outcome in ((extra, Plan), (extra - 1, Refusal)):
        largest = replace(willing[0], memory_bytes=willing[0].memory_bytes + added)
        assert isinstance(plan(MODEL_ID, spec, options, [largest, *willing[1:]]), outcome)
