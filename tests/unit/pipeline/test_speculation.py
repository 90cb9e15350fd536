from __future__ import annotations

import random

import pytest

from exo_lite.pipeline.speculation import FIRST_PROPOSED, MAX_INDEXED_TOKENS, MAX_PROPOSED, GuessCost, Speculator

FREE = GuessCost


def test_what_followed_the_last_tokens_before_is_proposed():
    speculator = Speculator([1, 2, 3, 4, 5, 6, 7, 8, 9])
    assert speculator.propose(4, FREE) == ()
    for token_id in (2, 3, 4):
        speculator.add(token_id)
    assert speculator.propose(3, FREE) == (5, 6, 7)
    assert speculator.propose(0, FREE) == ()


def test_where_they_stood_last_counts():
    speculator = Speculator([1, 2, 3, 40, 1, 2, 3, 50, 1, 2, 3])
    assert speculator.propose(1, FREE) == (50,)


def test_what_goes_round_is_taken_to_go_on():
    speculator = Speculator([9, 1, 2, 1, 2, 1])
    assert speculator.propose(4, FREE) == (2, 1, 2, 1)
    assert Speculator([7, 7, 7, 7]).propose(3, FREE) == (7, 7, 7)


@pytest.mark.parametrize("prompt", [[], [1], [1, 2, 3]])
def test_short_beginnings_have_nothing_to_offer(prompt: list[int]):
    speculator = Speculator(prompt)
    assert speculator.propose(4, FREE) == ()
    for token_id in (1, 2, 3, 1, 2, 3):
        speculator.add(token_id)
    assert speculator.propose(2, FREE) == (1, 2)


def test_runs_grow_while_they_are_right():
    speculator = Speculator([1, 2, 3] * 10)
    sizes = []
    for _ in range(4):
        sizes.append(len(speculator.propose(100, FREE)))
        speculator.learn(sizes[-1], sizes[-1])
    assert sizes == [FIRST_PROPOSED, 2 * FIRST_PROPOSED, MAX_PROPOSED, MAX_PROPOSED]


def test_only_the_end_of_a_very_long_prompt_is_looked_through():
    tokens = random.Random(1).choices(range(10**6), k=MAX_INDEXED_TOKENS + 10)
    speculator = Speculator(tokens)
    for token_id in tokens[:3]:
        speculator.add(token_id)
    assert speculator.propose(4, FREE) == ()


def test_guesses_that_cost_more_than_they_bring_are_not_made():
    over_slow_hops = GuessCost(num_decoding=1, cycle_ms=40.0, row_ms=1.0)
    on_a_busy_machine = GuessCost(num_decoding=8, cycle_ms=40.0, row_ms=5.0)
    assert over_slow_hops.num_worth(0.9, 16) > 8
    assert over_slow_hops.num_worth(0.02, 16) == 0
    assert on_a_busy_machine.num_worth(0.9, 16) == 0
    assert GuessCost(num_decoding=1, cycle_ms=40.0).num_worth(0.5, 7) == 7
    assert GuessCost(num_decoding=1, cycle_ms=0.0, row_ms=1.0).num_worth(0.5, 7) == 7
    assert 0 < over_slow_hops.num_worth(0.5, 16) < over_slow_hops.num_worth(0.8, 16)


def test_it_gives_up_where_guesses_are_wrong_and_tries_again_after_a_while():
    cost = GuessCost(num_decoding=1, cycle_ms=20.0, row_ms=5.0)
    speculator = Speculator([1, 2, 3] * 10)
    num_proposed = [len(speculator.propose(8, lambda: cost)) for _ in range(1)]
    for _ in range(400):
        speculator.learn(num_proposed[-1], 0)
        num_proposed.append(len(speculator.propose(8, lambda: cost)))
    tries = sum(1 for number in num_proposed[20:] if number)
    assert 2 <= tries <= 40
