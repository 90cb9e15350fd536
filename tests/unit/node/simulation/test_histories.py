"""What happens to a home, told in virtual time: whole daemons, real but for the network, the workers and the clock.

Every history ends with the promises of `Home.check`: epochs have only grown, each layer is held once, one node leads,
all hold the same placement, and every request has ended, with its tokens or an error.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine

import pytest

from exo_lite.domain.cluster_events import DEAD_AFTER_S
from exo_lite.domain.errors import NodeLost
from exo_lite.domain.ids import NodeId
from tests.unit.node.simulation.conftest import ROOM_FOR_THREE_LAYERS, MakeHome
from tests.unit.node.simulation.home import Home, history_of
from tests.unit.node.simulation.virtual_time import in_virtual_time

AT_ONCE_S = 1.0
LOADING_S = 5.0
NOTICED_S = DEAD_AFTER_S + AT_ONCE_S

Story = Callable[[Home], Coroutine[None, None, None]]


@pytest.fixture
def tell(home_of: MakeHome) -> Callable[[Story], None]:
    def tell(story: Story) -> None:
        async def whole() -> None:
            async with history_of(home_of()) as home:
                await story(home)

        in_virtual_time(whole())

    return tell


Tell = Callable[[Story], None]


async def three_with_a_model(home: Home) -> None:
    home.start("a")
    home.start("b", "a")
    home.start("c", "a")
    await home.until_met()
    await home.load("tiny", at="c")
    await home.until_ready("tiny")
    assert home["a"].parts("tiny") == {"a": 2, "b": 2, "c": 2}


def test_three_join_and_share_a_model(tell: Tell) -> None:
    async def story(home: Home) -> None:
        home.start("a")
        home.start("b", "a")
        home.start("c", "a")
        await home.until_met(within_s=AT_ONCE_S)
        await home.load("tiny", at="c")
        await home.until_ready("tiny", within_s=LOADING_S)
        assert home["b"].parts("tiny") == {"a": 2, "b": 2, "c": 2}
        for name in "abc":
            await home.answer("tiny", at=name)

    tell(story)


def test_who_knows_one_learns_of_all(tell: Tell) -> None:
    async def story(home: Home) -> None:
        home.start("c")
        for name, known in ("b", "c"), ("d", "b"), ("a", "d"):
            home.start(name, known)
        await home.until_met(within_s=4 * AT_ONCE_S)

    tell(story)


def test_who_joins_late_changes_nothing_until_something_is_placed(tell: Tell) -> None:
    async def story(home: Home) -> None:
        home.start("b")
        home.start("c", "b")
        await home.until_met()
        await home.load("tiny", at="c")
        await home.until_ready("tiny", within_s=LOADING_S)
        epoch = home["b"].state.epoch
        home.start("a", "c", memory_bytes=2 * ROOM_FOR_THREE_LAYERS)  # it will lead
        await home.until_met(within_s=AT_ONCE_S)
        await asyncio.sleep(30)
        assert {node.state.epoch for node in home.nodes.values()} == {epoch}
        assert home["a"].parts("tiny") == {"b": 3, "c": 3}
        await home.answer("tiny", at="a")
        await home.load("other", at="c")
        await home.until_ready("other", within_s=LOADING_S)
        assert "a" in home["b"].parts("other")

    tell(story)


def test_who_says_goodbye_is_missed_at_once_and_its_layers_move(tell: Tell) -> None:
    async def story(home: Home) -> None:
        await three_with_a_model(home)
        await home.leave("c")
        assert home["a"].sees["c"] == home["b"].sees["c"] == "dead"
        await home.until(lambda: home["a"].parts("tiny") == {"a": 3, "b": 3}, "placed again", within_s=AT_ONCE_S)
        await home.until_ready("tiny", within_s=LOADING_S)
        assert not home["a"].has_told("node_suspect")
        await home.answer("tiny", at="b")

    tell(story)


def test_a_killed_node_is_noticed_at_once_and_its_layers_move(tell: Tell) -> None:
    async def story(home: Home) -> None:
        await three_with_a_model(home)
        await home.kill("b")
        await home.until(lambda: home["c"].sees["b"] == "dead", "its loss is known", within_s=AT_ONCE_S)
        await home.until(lambda: home["c"].parts("tiny") == {"a": 3, "c": 3}, "placed again", within_s=AT_ONCE_S)
        await home.until_ready("tiny", within_s=LOADING_S)
        await home.answer("tiny", at="c")

    tell(story)


def test_a_silent_node_is_given_up_after_seconds_and_taken_back_when_it_speaks(tell: Tell) -> None:
    async def story(home: Home) -> None:
        await three_with_a_model(home)
        home.unplug("c")
        noticed_s = await home.until(lambda: home["a"].sees["c"] == "dead", "it is given up", within_s=NOTICED_S)
        assert noticed_s > DEAD_AFTER_S - AT_ONCE_S
        await home.until(lambda: home["b"].is_ready("tiny"), "placed again", within_s=LOADING_S)
        assert home["b"].parts("tiny") == {"a": 3, "b": 3}
        home.network.mend()
        await home.until_met(within_s=10.0)
        await home.until_ready("tiny", within_s=LOADING_S)
        await home.answer("tiny", at="c")

    tell(story)


def test_a_node_that_one_heard_later_than_another_is_given_up_no_later(tell: Tell) -> None:
    """The one passes on the other's last words when they are seconds old: they are no sign of life."""

    async def story(home: Home) -> None:
        await three_with_a_model(home)
        home.part("a", "c")
        await asyncio.sleep(1.0)
        home.ask("tiny", at="c")
        await home.until(lambda: bool(home["b"].state.members[NodeId("c")].status.num_requests), "its news has come")
        home.unplug("c")
        await home.until(lambda: {home[one].sees["c"] for one in "ab"} == {"dead"}, "it is lost", within_s=NOTICED_S)
        home.network.mend()
        await home.until_met(within_s=10.0)
        await home.until_ready("tiny", within_s=LOADING_S)

    tell(story)


def test_two_halves_that_part_go_on_alone_and_become_one_again(tell: Tell) -> None:
    async def story(home: Home) -> None:
        home.start("a")
        for name in "bcd":
            home.start(name, "a")
        await home.until_met()
        await home.load("tiny", at="b")
        await home.until_ready("tiny")
        home.part("ab", "cd")
        await home.until_met("a", "b", within_s=NOTICED_S)
        await home.until_met("c", "d", within_s=NOTICED_S)
        await home.until(lambda: all(home[one].is_ready("tiny") for one in "abcd"), "both serve", within_s=20.0)
        assert (home["a"].state.leader, home["d"].state.leader) == ("a", "c")
        for name in "ad":
            await home.answer("tiny", at=name)
        home.network.mend()
        await home.until_met(within_s=10.0)
        await home.until_ready("tiny", within_s=LOADING_S)
        await home.until(lambda: not any(node.siblings for node in home.nodes.values()), "one instance is left")
        for name in "abcd":
            await home.answer("tiny", at=name)

    tell(story)


def test_a_leader_places_nothing_on_a_newcomer_before_it_has_heard_what_is_placed_there(tell: Tell) -> None:
    """Two halves that never met, each with a model; the leader's has just lost a node that its model needs."""

    async def story(home: Home) -> None:
        home.start("a")
        home.start("b", "a")
        home.start("c", "a")
        home.start("d", "c")
        home.part("ab", "cd")
        await home.until_met("a", "b")
        await home.until_met("c", "d")
        await asyncio.gather(home.load("tiny", at="a"), home.load("other", at="c"))
        await home.until(lambda: home["a"].is_ready("tiny") and home["c"].is_ready("other"), "both serve")
        await home.kill("b")
        await home.until(lambda: home["a"].instances[0].state == "failed", "there is no room for it")
        home.network.mend()
        await home.until_met(within_s=10.0)
        await home.until_ready("other", within_s=LOADING_S)
        assert home["a"].parts("other") == {"c": 3, "d": 3}
        home.start("b", "a")
        await home.until_ready("tiny", within_s=10.0)
        assert home["c"].parts("tiny") == {"a": 3, "b": 3}

    tell(story)


def test_a_newcomer_that_is_cut_off_at_once_does_not_stop_its_leader_for_long(tell: Tell) -> None:
    """It has no time to tell what is placed on its side, and lives on in the words of a third node."""

    async def story(home: Home) -> None:
        home.start("a")
        home.start("b", "a")
        await home.until_met()
        home.network.delay_s = 0.1
        home.start("c", "a")
        await home.until(lambda: "c" in home["a"].sees, "it is taken in")
        home.network.delay_s = 0.001
        home.cut("a", "c")
        home.cut("c", "a")
        await home.load("tiny", at="b")
        await home.until_ready("tiny", within_s=DEAD_AFTER_S + LOADING_S)
        assert home["a"].sees["c"] != "dead"

    tell(story)


@pytest.mark.parametrize(
    "directions", [(("b", "c"), ("c", "b")), (("b", "c"),), (("c", "b"),)], ids=["cut", "one way", "the other way"]
)
def test_two_that_do_not_reach_each_other_go_through_the_third(
    tell: Tell, directions: tuple[tuple[str, str], ...]
) -> None:
    async def story(home: Home) -> None:
        await three_with_a_model(home)
        for one, other in directions:
            home.cut(one, other)
        await asyncio.sleep(30)
        assert all(state != "dead" for node in home.nodes.values() for state in node.sees.values())
        await home.until_ready("tiny", within_s=LOADING_S)
        assert home["a"].parts("tiny").keys() in ({"a", "b"}, {"a", "c"})
        for name in "abc":
            await home.answer("tiny", at=name)
        home.network.mend()
        await home.until_met(within_s=10.0)

    tell(story)


def test_a_node_that_starts_again_gets_its_layers_back(tell: Tell) -> None:
    async def story(home: Home) -> None:
        await three_with_a_model(home)
        await home.kill("b")
        home.start("b", "a")
        await home.until_met(within_s=2 * AT_ONCE_S)
        await home.until_ready("tiny", within_s=LOADING_S)
        for name in "abc":
            await home.answer("tiny", at=name)

    tell(story)


@pytest.mark.parametrize("end", ["leave", "kill"])
def test_what_was_loaded_comes_back_when_all_start_again(tell: Tell, end: str) -> None:
    async def story(home: Home) -> None:
        await three_with_a_model(home)
        epoch = home["a"].state.epoch
        for name in "abc":
            await getattr(home, end)(name)
        await asyncio.sleep(10)
        for name, known in ("c", "b"), ("a", "c"), ("b", "a"):
            home.start(name, known)
            await asyncio.sleep(1)
        await home.until_ready("tiny", within_s=30.0)
        await home.until_met()
        assert home["a"].state.epoch >= epoch
        await home.answer("tiny", at="b")

    tell(story)


def test_an_order_whose_leader_dies_is_carried_out_by_the_next(tell: Tell) -> None:
    async def story(home: Home) -> None:
        home.start("a")
        for name in "bcd":
            home.start(name, "a")
        await home.until_met()
        home.network.delay_s = 0.1
        order = asyncio.ensure_future(home.load("tiny", at="c"))
        await asyncio.sleep(0.35)  # it is on its way
        await home.kill("a")
        await order
        await home.until_ready("tiny", within_s=20.0)
        assert home["b"].state.leader == "b"
        assert "a" not in home["b"].parts("tiny")
        await home.answer("tiny", at="d")

    tell(story)


@pytest.mark.parametrize("lost", ["a", "b"], ids=["the first stage", "a later stage"])
def test_a_request_during_a_loss_ends_with_an_error_that_names_it_and_the_next_is_answered(
    tell: Tell, lost: str
) -> None:
    async def story(home: Home) -> None:
        await three_with_a_model(home)
        question = home.ask("tiny", at="c", num_tokens=500)
        await home.until(lambda: len(question.tokens) > 3, "it is being answered")
        await home.kill(lost)
        ended_s = await home.until(lambda: question.is_over, "it has ended", within_s=2 * AT_ONCE_S)
        assert isinstance(question.error, NodeLost), (ended_s, question.error)
        assert lost in str(question.error)
        await home.until(lambda: not home["c"].is_ready("tiny"), "the loss is known", within_s=AT_ONCE_S)
        await home.answer("tiny", at="c")  # it waits until the model is placed again

    tell(story)
