"""What clients ask and when, from a seed. Pure."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

FIRST_ID, LAST_ID = 300, 500
"""Prompts are of these ids: ordinary words in every vocabulary measured."""


@dataclass(frozen=True, slots=True)
class Lengths:
    """The least and the most tokens of prompts and answers; between them, every doubling is as likely as the others."""

    prompt: tuple[int, int] = (64, 256)
    answer: tuple[int, int] = (32, 128)


@dataclass(frozen=True, slots=True)
class Ask:
    """One request: greedy, `num_tokens` long whatever ends."""

    prompt: tuple[int, ...]
    num_tokens: int
    leaves_after: int | None = None
    """Tokens, after which the client hangs up."""


def make_asks(seed: str, count: int, lengths: Lengths, *, leaving_share: float = 0.0) -> list[Ask]:
    """The same for the same seed. Of `leaving_share` of them, the client does not wait for the end."""
    numbers = random.Random(seed)
    return [_make_ask(numbers, lengths, leaving_share) for _ in range(count)]


def _make_ask(numbers: random.Random, lengths: Lengths, leaving_share: float) -> Ask:
    prompt = make_prompt(numbers, _length(numbers, lengths.prompt))
    num_tokens = _length(numbers, lengths.answer)
    is_leaving = numbers.random() < leaving_share
    return Ask(prompt, num_tokens, numbers.randrange(num_tokens) if is_leaving else None)


def make_prompt(numbers: random.Random, num_tokens: int) -> tuple[int, ...]:
    return tuple(numbers.randrange(FIRST_ID, LAST_ID) for _ in range(num_tokens))


def _length(numbers: random.Random, bounds: tuple[int, int]) -> int:
    least, most = bounds
    return min(most, int(least * math.exp(numbers.uniform(0, math.log((most + 1) / least)))))


def arrival_times(seed: str, per_second: float, seconds: float) -> list[float]:
    """Of a Poisson process: seconds from its start, in order."""
    numbers = random.Random(seed)
    gaps = [numbers.expovariate(per_second) for _ in range(math.ceil(2 * per_second * seconds) + 20)]
    return [at_s for at_s in accumulate(gaps) if at_s < seconds]


def shares(asks: Sequence[Ask], num_clients: int) -> list[Sequence[Ask]]:
    """The asks of each client, in turn."""
    return [asks[index::num_clients] for index in range(num_clients)]
