"""Placement where not every pair of nodes can talk."""

from __future__ import annotations

import random
from itertools import combinations, permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exo_lite.domain.ids import ModelId, NodeId
from exo_lite.domain.links import KnownLinks, Link, link
from exo_lite.domain.load_options import LoadOptions
from exo_lite.domain.model_spec import ModelSpec
from exo_lite.domain.plan import NodeOffer, Plan, Refusal
from exo_lite.engine.torch_c.footprint import footprint
from tests.planned import plan

MODEL = ModelId("tiny")
SPEC = ModelSpec("llama", 12, 8, 16, 2, 1, 4, 32, 64, dtype="float32")
OPTIONS = LoadOptions("float32", context_length=64)
SIZES = footprint(SPEC, OPTIONS)


def room_for(num_layers: int) -> int:
    """Bytes for so many layers in any place."""
    return SIZES.only_bytes + num_layers * SIZES.layer_bytes


def offers(names: str, num_layers: int) -> list[NodeOffer]:
    return [NodeOffer(NodeId(name), f"node-{name}", room_for(num_layers)) for name in names]


def cut(*pairs: str) -> frozenset[Link]:
    return frozenset(link(NodeId(pair[0]), NodeId(pair[1])) for pair in pairs)


def order(outcome: Plan | Refusal) -> str:
    assert isinstance(outcome, Plan), outcome
    return "".join(part.node_id for part in outcome.assignments)


def planned(names: str, num_layers: int, *pairs: str, doubtful: tuple[str, ...] = ()) -> Plan | Refusal:
    return plan(MODEL, SPEC, OPTIONS, offers(names, num_layers), KnownLinks(cut(*pairs), cut(*doubtful)))


def test_a_cut_pair_of_three_leaves_two_and_the_first_is_the_one_that_all_reach():
    outcome = planned("abc", 6, "ac")
    assert order(outcome) == "ba"
    assert isinstance(outcome, Plan)
    assert [(one.node_id, one.reason) for one in outcome.excluded] == [
        ("c", "node-a and node-c cannot reach each other")
    ]


def test_four_in_a_square_are_a_ring_whose_neighbours_reach_each_other():
    ring = order(planned("abcd", 3, "ac", "bd"))
    assert len(ring) == 4
    assert link(NodeId("a"), NodeId("c")) not in neighbours(ring)
    assert link(NodeId("b"), NodeId("d")) not in neighbours(ring)


def neighbours(ring: str) -> set[Link]:
    """What streams run along; nothing where one node is alone."""
    pairs = zip(ring, ring[1:] + ring[0], strict=True)
    return {link(NodeId(one), NodeId(other)) for one, other in pairs if one != other}


def test_without_a_ring_one_node_may_do():
    assert order(planned("ab", 12, "ab")) == "a"


def test_memory_enough_and_no_ring_is_told_by_the_links():
    outcome = planned("abc", 4, "ac")
    assert isinstance(outcome, Refusal)
    assert outcome.broken_links == (("node-a", "node-c"),)
    assert "which would be enough, but node-a and node-c cannot reach each other" in outcome.reason
    assert "firewalls" in outcome.reason


def test_too_little_memory_stays_arithmetic():
    outcome = planned("abc", 3, "ac")
    assert isinstance(outcome, Refusal)
    assert outcome.broken_links == ()
    assert "short by" in outcome.reason


def test_a_doubtful_link_is_left_alone_only_where_that_is_possible():
    careful = planned("abc", 6, doubtful=("ac",))
    assert order(careful) == "ba"
    assert isinstance(careful, Plan)
    assert careful.excluded[0].reason == "the link between node-a and node-c failed a moment ago"
    assert sorted(order(planned("abc", 4, doubtful=("ac",)))) == ["a", "b", "c"]
    assert order(planned("abc", 6, "ab", doubtful=("ac", "bc"))) in ("ca", "cb")


def test_links_that_work_change_nothing():
    some = offers("abcde", 3)
    assert plan(MODEL, SPEC, OPTIONS, some) == plan(MODEL, SPEC, OPTIONS, some, KnownLinks())


@pytest.mark.parametrize("num_nodes", [12, 40])
def test_many_nodes_with_many_cut_links_take_no_long_search(num_nodes: int):
    names = [NodeId(f"{index:02}") for index in range(num_nodes)]
    pairs = list(combinations(names, 2))
    broken = frozenset(link(*pair) for pair in random.Random(7).sample(pairs, len(pairs) // 2))
    some = [NodeOffer(name, name, room_for(12)) for name in names]
    outcome = plan(MODEL, SPEC, OPTIONS, some, KnownLinks(broken))
    assert isinstance(outcome, Plan)
    ring = [part.node_id for part in outcome.assignments]
    streams = {link(*pair) for pair in zip(ring, [*ring[1:], ring[0]], strict=True) if pair[0] != pair[1]}
    assert not streams & broken


NAMES = "abcde"
PAIRS = ["".join(pair) for pair in combinations(NAMES, 2)]


@given(
    rooms=st.lists(st.integers(0, 12), min_size=5, max_size=5),
    broken=st.sets(st.sampled_from(PAIRS)),
)
def test_a_ring_is_found_wherever_there_is_one_and_keeps_to_links_that_work(rooms: list[int], broken: set[str]):
    some = [
        NodeOffer(NodeId(name), name, SIZES.middle_bytes + count * SIZES.layer_bytes)
        for name, count in zip(NAMES, rooms, strict=True)
    ]
    outcome = plan(MODEL, SPEC, OPTIONS, some, KnownLinks(cut(*broken)))
    if isinstance(outcome, Plan):
        assert not neighbours(order(outcome)) & cut(*broken)
        assert sum(part.shard.num_layers for part in outcome.assignments) == SPEC.n_layers
        return
    assert not any(_carries(line, cut(*broken)) for count in range(1, 6) for line in permutations(some, count))


def _carries(line: tuple[NodeOffer, ...], broken: frozenset[Link]) -> bool:
    """By trying: whether these nodes in this order hold the model along links that work."""
    if neighbours("".join(offer.node_id for offer in line)) & broken:
        return False
    last = len(line) - 1
    places = [
        SIZES.only_bytes if last == 0 else SIZES.first_bytes if index == 0 else SIZES.last_bytes if index == last
        else SIZES.middle_bytes
        for index in range(len(line))
    ]  # fmt: skip
    rooms = [SIZES.capacity(offer.memory_bytes, place) for offer, place in zip(line, places, strict=True)]
    return all(rooms) and sum(rooms) >= SPEC.n_layers
