from __future__ import annotations

from itertools import product
from math import inf

from hypothesis import given, settings
from hypothesis import strategies as st

from exo_lite.domain.ids import ModelId, NodeId
from exo_lite.domain.load_options import LoadOptions, Strategy
from exo_lite.domain.plan import NodeOffer, Plan
from exo_lite.engine.torch_c.footprint import footprint
from exo_lite.planning.by_work import split_by_work
from exo_lite.planning.candidate import Candidate
from exo_lite.planning.stage_order import PossibleStage
from tests.bench.shapes import spec_of
from tests.planned import plan

GIB = 2**30


def order_of(capacities: list[int]) -> tuple[PossibleStage, ...]:
    sizes = footprint(spec_of("1b"), LoadOptions("bfloat16"))
    offers = [NodeOffer(NodeId(str(n)), str(n), 1) for n in range(len(capacities))]
    return tuple(
        PossibleStage(Candidate(offer, sizes), capacity) for offer, capacity in zip(offers, capacities, strict=True)
    )


def slowest(shares: tuple[int, ...] | list[int], layer: int, lm_head: int) -> float:
    """Time of the slowest stage, half of the tokens being prompts', which need no output head."""
    return max(share * layer + lm_head / 2 * (index == len(shares) - 1) for index, share in enumerate(shares))


@given(st.lists(st.integers(1, 6), min_size=1, max_size=4), st.integers(1, 9), st.integers(0, 40), st.data())
@settings(deadline=None)
def test_no_split_that_fits_has_a_faster_slowest_stage(
    capacities: list[int], layer: int, lm_head: int, data: st.DataObject
) -> None:
    n_layers = data.draw(st.integers(len(capacities), sum(capacities)))
    shares = split_by_work(order_of(capacities), n_layers, layer_bytes=layer, lm_head_bytes=lm_head)
    assert sum(shares) == n_layers
    assert all(1 <= share <= capacity for share, capacity in zip(shares, capacities, strict=True))
    best = inf
    for other in product(*(range(1, capacity + 1) for capacity in capacities)):
        if sum(other) == n_layers:
            best = min(best, slowest(other, layer, lm_head))
    assert slowest(shares, layer, lm_head) == best


def test_a_large_head_counts_as_layers() -> None:
    spec = spec_of("1b")
    offers = [NodeOffer(NodeId(name), name, 6 * GIB) for name in "ab"]
    splits: dict[Strategy, list[int]] = {"by_memory": [8, 8], "by_work": [9, 7]}
    for strategy, expected in splits.items():
        result = plan(ModelId("m"), spec, LoadOptions("bfloat16", "int8", strategy=strategy), offers)
        assert isinstance(result, Plan)
        assert [part.shard.num_layers for part in result.assignments] == expected
