from __future__ import annotations

from collections.abc import Callable

from exo_lite.domain.ids import ModelId, NodeId
from exo_lite.domain.load_options import LoadOptions
from exo_lite.domain.model_spec import ModelSpec
from exo_lite.domain.plan import NodeOffer, Plan, Refusal
from exo_lite.engine.torch_c.footprint import footprint
from tests.planned import plan

MODEL_ID = ModelId("llama-3-8b")
OffersOf = Callable[..., list[NodeOffer]]


def refused(spec: ModelSpec, options: LoadOptions, offers: list[NodeOffer]) -> Refusal:
    result = plan(MODEL_ID, spec, options, offers)
    assert isinstance(result, Refusal)
    return result


def test_a_refusal_shows_its_arithmetic(llama_3_8b: ModelSpec, bfloat16: LoadOptions, offers_of: OffersOf) -> None:
    result = refused(llama_3_8b, bfloat16, offers_of(a=8, b=4, c=0.25, d=0))
    assert result.reason == (
        "llama-3-8b needs 17.1 GiB: 15.0 GiB of weights, 2.0 GiB of KV cache for 8 x 2048 tokens and 147.2 MiB of"
        " working space; 3 nodes offer 12.2 GiB in all: short by 4.9 GiB."
        " a: offers 8.0 GiB, room for 14 layers beside the embedding."
        " b: offers 4.0 GiB, room for 6 layers beside the output head."
        " c: offers 256.0 MiB, but a single layer takes 611.6 MiB: 480.0 MiB of weights and KV cache, 131.5 MiB of"
        " working space."
        " d: offers no memory."
        " Add nodes, offer 5.3 GiB more on a, or take a shorter context, fewer slots or a smaller quantization."
    )
    assert result.available_bytes == 12.25 * 2**30
    assert result.needed_bytes == footprint(llama_3_8b, bfloat16).model_bytes
    assert [exclusion.name for exclusion in result.excluded] == ["c", "d"]


def test_what_it_asks_for_is_enough(llama_3_8b: ModelSpec, bfloat16: LoadOptions, offers_of: OffersOf) -> None:
    assert isinstance(plan(MODEL_ID, llama_3_8b, bfloat16, offers_of(a=8 + 5.3, b=4, c=0.25)), Plan)


def test_whole_layers_may_be_what_is_short(llama_3_8b: ModelSpec, bfloat16: LoadOptions) -> None:
    sizes = footprint(llama_3_8b, bfloat16)
    offers = [
        NodeOffer(NodeId("a"), "a", sizes.first_bytes + 16 * sizes.layer_bytes),
        NodeOffer(NodeId("b"), "b", sizes.last_bytes + 16 * sizes.layer_bytes - 1),
    ]
    assert (
        "2 nodes offer 17.2 GiB in all, but in whole layers, each node with its own working space, only 31 of 32"
        " layers fit: short by 1 layer or 480.0 MiB." in refused(llama_3_8b, bfloat16, offers).reason
    )


def test_without_a_node_for_the_ends_their_needs_are_named(
    llama_3_8b: ModelSpec, bfloat16: LoadOptions, offers_of: OffersOf
) -> None:
    reason = refused(llama_3_8b, bfloat16, offers_of(**{f"n{index:02}": 1 for index in range(40)})).reason
    assert "only 0 of 32 layers fit" in reason
    assert (
        "n00: offers 1.0 GiB, room for 1 layer in the middle, where one layer with the embedding takes 1.6 GiB,"
        " with the output head 1.6 GiB." in reason
    )


def test_without_offers_everything_is_short(llama_3_8b: ModelSpec, bfloat16: LoadOptions) -> None:
    reason = refused(llama_3_8b, LoadOptions("bfloat16", "int4"), []).reason
    assert "no node offers memory: short by 7.3 GiB." in reason
    assert reason.endswith("Add nodes, or take a shorter context or fewer slots.")


def test_beyond_eight_nodes_the_rest_is_summed_up(
    llama_3_8b: ModelSpec, bfloat16: LoadOptions, offers_of: OffersOf
) -> None:
    sizes = {f"n{index}": 2 - index / 100 for index in range(9)} | {"small": 0.5}
    leaving = NodeOffer(NodeId("id-z"), "z", 0, "is leaving")
    reason = refused(llama_3_8b, bfloat16, [*offers_of(**sizes), leaving]).reason
    assert reason.count(": offers ") == 8
    assert "3 more: offer 2.4 GiB in all, room for 1 layer." in reason
