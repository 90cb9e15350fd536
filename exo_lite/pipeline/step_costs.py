"""The cost of steps at the slowest stage, learnt from results; it decides how much of a prompt a step may carry."""

from __future__ import annotations

from exo_lite.domain.step import PREFILL_CHUNK_TOKENS
from exo_lite.pipeline.speculation import GuessCost

MAX_SLOWDOWN = 1.6
"""The limit to which new prompts slow running answers: how many times longer a step with both may take,
while there are no more prompts than answers."""
FIRST_CHUNK_TOKENS = 16
"""The first chunk of a prompt beside running answers, as long as nothing is known."""
MAX_MIXED_IN_A_ROW = 32
"""Steps with both decodes and prompts; then one without prompts shows again what decodes cost alone."""

_WEIGHT = 0.3
"""The weight of the newest measurement in a moving average."""


class MovingAverage:
    """None until the first measurement."""

    def __init__(self) -> None:
        self.value: float | None = None

    def add(self, measured: float) -> None:
        self.value = measured if self.value is None else self.value + _WEIGHT * (measured - self.value)


class StepCosts:
    """The milliseconds of decodes alone, by their number, and of each proposal or prompt token that goes with them.

    Costs per prompt token are measured at the current batch size, so the budget adapts to any machine.
    """

    def __init__(self) -> None:
        self._decodes: dict[int, MovingAverage] = {}
        self._prompt_token = MovingAverage()
        self._proposal = MovingAverage()
        self._cycle = MovingAverage()
        self._num_mixed = 0
        self._last_budget = FIRST_CHUNK_TOKENS

    def learn(self, *, num_decodes: int, num_proposed: int, num_prompt_tokens: int, compute_ms: float) -> None:
        """A step's time at the stage that took longest."""
        if num_decodes == 0:
            return
        if num_prompt_tokens == 0 and num_proposed == 0:
            self._decodes.setdefault(num_decodes, MovingAverage()).add(compute_ms)
        elif (alone_ms := self.decodes_ms(num_decodes)) is not None:
            kind = self._prompt_token if num_prompt_tokens else self._proposal
            kind.add(max(0.0, compute_ms - alone_ms) / (num_prompt_tokens + num_proposed))

    def learn_cycle(self, duration_ms: float) -> None:
        """How long a step with decodes alone was under way: until then its answers wait for their next token."""
        self._cycle.add(duration_ms)

    def proposal_cost(self, num_decoding: int, num_stages: int) -> GuessCost:
        """Return what guesses cost: an extra row costs its time on every stage that would otherwise be idle."""
        num_alone = max(1, num_stages - num_decoding + 1)
        return GuessCost(num_decoding, self._cycle.value, num_alone * (self._proposal.value or 0.0))

    def decodes_ms(self, num_decodes: int) -> float | None:
        """Return the cost of a step with this many decodes only, or with the nearest known number."""
        known = min(self._decodes, key=lambda number: abs(number - num_decodes), default=None)
        return None if known is None else self._decodes[known].value

    def should_measure_decodes(self) -> bool:
        """Say whether the next step should decode only, to be measured. Call once for each step with decodes."""
        self._num_mixed = (self._num_mixed + 1) % (MAX_MIXED_IN_A_ROW + 1)
        return self._num_mixed == 0

    def prompt_budget(self, num_decodes: int, prompts_per_answer: float = 0.0) -> int:
        """Prompt tokens for a step while answers run, `num_decodes` of them in each step.

        Where more prompts than answers are under way, prompts get as many times more of the time: few answers in a
        step waste it, and those that wait have as good a right. At least as many tokens as decodes: whatever a row
        costs, that at most doubles the rows.
        """
        alone_ms, token_ms = self.decodes_ms(num_decodes), self._prompt_token.value
        if alone_ms is None or token_ms is None:
            return FIRST_CHUNK_TOKENS
        share = (MAX_SLOWDOWN - 1) * max(1.0, prompts_per_answer)
        affordable = share * alone_ms / token_ms if token_ms > 0 else PREFILL_CHUNK_TOKENS
        # never more than twice the last one: what a token costs is known only where the budget has been
        self._last_budget = int(max(num_decodes, min(affordable, 2 * self._last_budget, PREFILL_CHUNK_TOKENS)))
        return self._last_budget
