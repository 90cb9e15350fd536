"""The prompt budget against machines of several kinds: it finds what running answers can bear."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from exo_lite.domain.step import PREFILL_CHUNK_TOKENS
from exo_lite.pipeline.step_costs import FIRST_CHUNK_TOKENS, MAX_MIXED_IN_A_ROW, MAX_SLOWDOWN, StepCosts

NUM_DECODES = 4

MACHINES: dict[str, Callable[[int], float]] = {
    "one pass over the weights, then each row": lambda rows: max(60.0, 4.0 * rows),
    "every row costs": lambda rows: 5.0 + 3.0 * rows,
    "more than a few rows go another way": lambda rows: 20.0 + rows + (10.0 if rows > 8 else 0.0),
    "a great machine": lambda rows: 8.0 + 0.02 * rows,
}


def used_to(costs: StepCosts, machine: Callable[[int], float], num_steps: int = 60) -> list[int]:
    """The budgets of steps with decodes and prompts, each measured before the next."""
    costs.learn(num_decodes=NUM_DECODES, num_proposed=0, num_prompt_tokens=0, compute_ms=machine(NUM_DECODES))
    budgets = []
    for _ in range(num_steps):
        budgets.append(costs.prompt_budget(NUM_DECODES))
        compute_ms = machine(NUM_DECODES + budgets[-1])
        costs.learn(num_decodes=NUM_DECODES, num_proposed=0, num_prompt_tokens=budgets[-1], compute_ms=compute_ms)
    return budgets


@pytest.mark.parametrize("machine", MACHINES.values(), ids=list(MACHINES))
def test_the_budget_settles_where_answers_slow_down_by_the_set_share(machine: Callable[[int], float]):
    budget = used_to(StepCosts(), machine)[-1]
    limit_ms = MAX_SLOWDOWN * machine(NUM_DECODES)
    assert machine(NUM_DECODES + budget) <= limit_ms * 1.02 or budget == NUM_DECODES  # the least that it gives
    assert budget == PREFILL_CHUNK_TOKENS or machine(NUM_DECODES + budget + 2) > limit_ms * 0.95


def test_more_prompts_than_answers_get_more_of_the_time():
    costs = StepCosts()
    used_to(costs, lambda rows: 100.0 + 3.0 * rows)
    alone = costs.prompt_budget(NUM_DECODES)
    assert costs.prompt_budget(NUM_DECODES, prompts_per_answer=1.0) == alone
    assert costs.prompt_budget(NUM_DECODES, prompts_per_answer=2.0) == pytest.approx(2 * alone, abs=1)


def test_it_follows_a_machine_that_changes():
    costs = StepCosts()
    fast = used_to(costs, lambda rows: 10.0 + 0.5 * rows)[-1]
    slow = used_to(costs, lambda rows: 10.0 + 2.0 * rows)[-1]
    assert fast > 2 * slow


def test_prompts_always_come_on():
    assert min(used_to(StepCosts(), lambda rows: 1.0 if rows == NUM_DECODES else 100.0 + rows)) == NUM_DECODES


def test_without_measurements_it_starts_small():
    assert StepCosts().prompt_budget(NUM_DECODES) == FIRST_CHUNK_TOKENS
    assert StepCosts().decodes_ms(3) is None


def test_decodes_of_a_number_never_seen_are_taken_to_cost_what_the_nearest_do():
    costs = StepCosts()
    costs.learn(num_decodes=1, num_proposed=0, num_prompt_tokens=0, compute_ms=10.0)
    costs.learn(num_decodes=8, num_proposed=0, num_prompt_tokens=0, compute_ms=30.0)
    costs.learn(num_decodes=0, num_proposed=0, num_prompt_tokens=256, compute_ms=500.0)
    assert [costs.decodes_ms(number) for number in (1, 3, 7, 20)] == [10.0, 10.0, 30.0, 30.0]


def test_now_and_then_decodes_go_alone():
    costs = StepCosts()
    turns = [costs.should_measure_decodes() for _ in range(2 * (MAX_MIXED_IN_A_ROW + 1))]
    assert turns.count(True) == 2
    assert turns[MAX_MIXED_IN_A_ROW]
