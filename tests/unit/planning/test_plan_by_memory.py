from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from exo_lite.domain.errors import InvalidRequest
from exo_lite.domain.ids import ModelId, NodeId
from exo_lite.domain.load_options import LoadOptions
from exo_lite.domain.model_spec import ModelSpec
from exo_lite.domain.plan import NodeOffer, Plan, Refusal
from exo_lite.engine.torch_c.footprint import footprint
from tests.planned import plan

MODEL_ID = ModelId("llama-3-8b")
OffersOf = Callable[..., list[NodeOffer]]


def layers_by_node(result: Plan | Refusal) -> list[tuple[str, int, int]]:
    assert isinstance(result, Plan), result.reason
    return [(part.name, part.shard.start_layer, part.shard.end_layer) for part in result.assignments]


def test_layers_follow_memory(llama_3_8b: ModelSpec, bfloat16: LoadOptions, offers_of: OffersOf) -> None:
    result = plan(MODEL_ID, llama_3_8b, bfloat16, offers_of(a=16, b=8, c=8))
    assert layers_by_node(result) == [("a", 0, 15), ("b", 16, 23), ("c", 24, 31)]


def test_the_largest_comes_first_and_ties_go_by_id(
    llama_3_8b: ModelSpec, bfloat16: LoadOptions, offers_of: OffersOf
) -> None:
    result = plan(MODEL_ID, llama_3_8b, bfloat16, offers_of(c=8, b=8, d=24, a=8))
    assert [name for name, _, _ in layers_by_node(result)] == ["d", "a", "b", "c"]


def test_one_node_holds_all(llama_3_8b: ModelSpec, bfloat16: LoadOptions, offers_of: OffersOf) -> None:
    assert layers_by_node(plan(MODEL_ID, llama_3_8b, bfloat16, offers_of(a=18))) == [("a", 0, 31)]


def test_shares_are_cut_to_what_fits(llama_3_8b: ModelSpec, bfloat16: LoadOptions) -> None:
    sizes = footprint(llama_3_8b, bfloat16)
    offers = [
        NodeOffer(NodeId("a"), "a", sizes.first_bytes + 30 * sizes.layer_bytes),
        NodeOffer(NodeId("b"), "b", sizes.last_bytes + 2 * sizes.layer_bytes),
    ]
    assert layers_by_node(plan(MODEL_ID, llama_3_8b, bfloat16, offers)) == [("a", 0, 29), ("b", 30, 31)]


def test_a_node_too_small_for_the_head_stands_in_the_middle(llama_3_8b: ModelSpec, bfloat16: LoadOptions) -> None:
    sizes = footprint(llama_3_8b, bfloat16)
    offers = [
        NodeOffer(NodeId("a"), "a", sizes.model_bytes),
        NodeOffer(NodeId("b"), "b", sizes.last_bytes + 2 * sizes.layer_bytes),
        NodeOffer(NodeId("c"), "c", sizes.middle_bytes + sizes.layer_bytes),
    ]
    result = plan(MODEL_ID, llama_3_8b, bfloat16, offers)
    assert [name for name, _, _ in layers_by_node(result)] == ["a", "c", "b"]


def test_a_larger_node_takes_the_head_where_only_that_fits(bfloat16: LoadOptions) -> None:
    spec = ModelSpec("llama", 4, 64, 64, 4, 4, 16, 1_000, 2048, tie_word_embeddings=True)
    options = replace(bfloat16, num_slots=100, context_length=16)  # logits make the last place the dear one
    sizes = footprint(spec, options)
    assert sizes.last_bytes > sizes.first_bytes
    offers = [
        NodeOffer(NodeId("a"), "a", sizes.last_bytes + 2 * sizes.layer_bytes),
        NodeOffer(NodeId("b"), "b", sizes.first_bytes + 2 * sizes.layer_bytes),
    ]
    assert layers_by_node(plan(MODEL_ID, spec, options, offers)) == [("b", 0, 1), ("a", 2, 3)]


def test_who_offers_nothing_is_excluded_with_the_reason(
    llama_3_8b: ModelSpec, bfloat16: LoadOptions, offers_of: OffersOf
) -> None:
    leaving = NodeOffer(NodeId("id-d"), "d", 0, "is leaving the cluster")
    result = plan(MODEL_ID, llama_3_8b, bfloat16, [*offers_of(a=20, b=0.25, c=0), leaving])
    assert isinstance(result, Plan)
    reasons = {exclusion.name: exclusion.reason for exclusion in result.excluded}
    assert reasons == {
        "b": "offers 256.0 MiB, but a single layer takes 611.6 MiB: 480.0 MiB of weights and KV cache,"
        " 131.5 MiB of working space",
        "c": "offers no memory",
        "d": "is leaving the cluster",
    }


def test_with_more_nodes_than_layers_the_smallest_are_excluded(
    llama_3_8b: ModelSpec, bfloat16: LoadOptions, offers_of: OffersOf
) -> None:
    spec = replace(llama_3_8b, num_hidden_layers=2)
    result = plan(MODEL_ID, spec, bfloat16, offers_of(a=9, b=7, c=8))
    assert layers_by_node(result) == [("a", 0, 0), ("c", 1, 1)]
    assert isinstance(result, Plan)
    assert [(exclusion.name, exclusion.reason) for exclusion in result.excluded] == [
        ("b", "offers 7.0 GiB, and all of the model's 2 layers are held by nodes that offer as much or more")
    ]


def test_a_single_layer_goes_to_the_largest(llama_3_8b: ModelSpec, bfloat16: LoadOptions, offers_of: OffersOf) -> None:
    result = plan(MODEL_ID, replace(llama_3_8b, num_hidden_layers=1), bfloat16, offers_of(a=9, b=12))
    assert layers_by_node(result) == [("b", 0, 0)]


def test_who_can_hold_neither_end_is_left_out_beside_one_that_holds_all(
    llama_3_8b: ModelSpec, bfloat16: LoadOptions, offers_of: OffersOf
) -> None:
    result = plan(MODEL_ID, llama_3_8b, bfloat16, offers_of(a=20, b=1))
    assert layers_by_node(result) == [("a", 0, 31)]
    assert isinstance(result, Plan)
    assert result.excluded[0].reason == (
        "offers 1.0 GiB: beside a, which holds the model alone, it would need at least 1.6 GiB for one layer with"
        " the embedding or the output head"
    )


def test_a_node_offers_once(llama_3_8b: ModelSpec, bfloat16: LoadOptions, offers_of: OffersOf) -> None:
    with pytest.raises(InvalidRequest, match="id-a stands 2 times"):
        plan(MODEL_ID, llama_3_8b, bfloat16, offers_of(a=16) + offers_of(a=8))


def test_a_thousand_nodes_share_the_largest_model(llama_3_8b: ModelSpec, bfloat16: LoadOptions) -> None:
    spec = replace(
        llama_3_8b,
        num_hidden_layers=126,
        hidden_size=16384,
        intermediate_size=53248,
        num_attention_heads=128,
    )
    offers = [NodeOffer(NodeId(f"id-{index:04}"), "n", (8 + index % 120) * 2**30) for index in range(1000)]
    result = plan(ModelId("llama-3.1-405b"), spec, bfloat16, offers)
    assert isinstance(result, Plan)
    assert len(result.assignments) == 126
    assert len(result.excluded) == 874
