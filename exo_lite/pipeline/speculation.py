"""Guesses at the next tokens of an answer, from where its last ones stood before (prompt lookup, Saxena 2023).

A guess costs a row of a step and saves a traversal of the pipeline where it is right: it is right exactly if the tail
draws that very token, so answers are the same with and without.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

NGRAM = 3
"""Tokens that must have stood together before."""
MAX_INDEXED_TOKENS = 16_384
"""The number of a prompt's last tokens that are indexed: looking them up must not hold up the first stage."""
FIRST_PROPOSED = 4
MAX_PROPOSED = 16

_FIRST_ACCEPTANCE = 0.5
_WEIGHT = 0.1
"""The weight of the newest guess in the moving average."""
_FORGETTING = 0.005
"""Each skipped guess moves the acceptance estimate this far back to its initial value, so speculation is retried."""


@dataclass(frozen=True, slots=True)
class GuessCost:
    """The cost of guesses: `row_ms` each, added to the `cycle_ms` in which each of `num_decoding` answers gets a token.

    Without measurements, or with a clock that is too coarse for them, they are free.
    """

    num_decoding: int = 1
    cycle_ms: float | None = None
    row_ms: float = 0.0

    def num_worth(self, acceptance: float, most: int) -> int:
        """How many guesses in a row give the most tokens per second, each being right with the chance `acceptance`."""
        if not self.cycle_ms:
            return most
        best, best_rate = 0, self.num_decoding / self.cycle_ms
        num_expected, chance = float(self.num_decoding), 1.0
        for number in range(1, most + 1):
            chance *= acceptance
            num_expected += chance
            rate = num_expected / (self.cycle_ms + number * self.row_ms)
            if rate > best_rate:
                best, best_rate = number, rate
        return best


class Speculator:
    """The speculation of one sequence: all its tokens, and how good the guesses were."""

    def __init__(self, prompt: Sequence[int]) -> None:
        tokens = self._tokens = list(prompt[-MAX_INDEXED_TOKENS:])
        ngrams = zip(*(tokens[start:] for start in range(NGRAM)), strict=False)
        self._next_place = dict(zip(ngrams, range(NGRAM, len(tokens)), strict=False))
        """The place of the token after each n-gram's last occurrence."""
        self._acceptance = _FIRST_ACCEPTANCE
        self._limit = FIRST_PROPOSED

    def add(self, token_id: int) -> None:
        """A token of the answer."""
        if len(self._tokens) >= NGRAM:
            self._next_place[tuple(self._tokens[-NGRAM:])] = len(self._tokens)
        self._tokens.append(token_id)

    def propose(self, most: int, cost: Callable[[], GuessCost]) -> tuple[int, ...]:
        """Return at most `most` guesses, as many as are worth their cost; often none."""
        place = self._next_place.get(tuple(self._tokens[-NGRAM:]))
        if place is None or most < 1:
            return ()
        number = cost().num_worth(self._acceptance, min(most, self._limit))
        if number == 0:
            self._acceptance += _FORGETTING * (_FIRST_ACCEPTANCE - self._acceptance)
        period = len(self._tokens) - place  # what has been repeated up to here is taken to go round once more
        return tuple(self._tokens[place + index % period] for index in range(number))

    def learn(self, num_proposed: int, num_accepted: int) -> None:
        """Guesses after the first wrong one tell nothing."""
        for was_right in (True,) * num_accepted + (False,) * (num_accepted < num_proposed):
            self._acceptance += _WEIGHT * (was_right - self._acceptance)
        if 0 < num_proposed == num_accepted:
            self._limit = min(MAX_PROPOSED, 2 * self._limit)
