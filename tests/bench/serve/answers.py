"""What came of requests, and the figures that sum it up. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

REFUSED = 429


@dataclass(frozen=True, slots=True)
class Answer:
    """One request as its client saw it. Times are seconds of one clock."""

    client: int
    asked_at_s: float
    ended_at_s: float
    times_s: tuple[float, ...] = ()
    """When each piece of text came; a piece is a token, but for halves of characters."""
    num_tokens: int = 0
    status: int = 200
    error: str | None = None
    has_left: bool = False
    """The client hung up before the end, as it was to."""

    @property
    def is_whole(self) -> bool:
        return self.error is None and not self.has_left

    @property
    def is_refused(self) -> bool:
        return self.status == REFUSED

    @property
    def latency_s(self) -> float:
        return self.ended_at_s - self.asked_at_s

    @property
    def ttft_s(self) -> float | None:
        return self.times_s[0] - self.asked_at_s if self.times_s else None

    @property
    def gaps_s(self) -> list[float]:
        return [later - earlier for earlier, later in pairwise(self.times_s)]


def percentile(values: Iterable[float], percent: float) -> float:
    """The least value that `percent` of them do not exceed (nearest rank); NaN of none."""
    in_order = sorted(values)
    if not in_order:
        return math.nan
    return in_order[max(0, math.ceil(percent / 100 * len(in_order)) - 1)]


def steady_rate(answers: Sequence[Answer]) -> float:
    """Tokens/s of all closed-loop clients together while every one of them had work: no start, no end.

    From the last client's first token to the first client's last one; of all that came in between.
    """
    begun = [one for one in answers if one.times_s]
    clients = {one.client for one in begun}
    if not clients:
        return 0.0
    starts = [min(one.times_s[0] for one in begun if one.client == client) for client in clients]
    ends = [max(one.times_s[-1] for one in begun if one.client == client) for client in clients]
    start_s, end_s = max(starts), min(ends)
    if end_s <= start_s:
        start_s, end_s = min(starts), max(ends)
    return sum(_tokens_within(one, start_s, end_s) for one in begun) / (end_s - start_s) if end_s > start_s else 0.0


def _tokens_within(answer: Answer, start_s: float, end_s: float) -> float:
    """The first moment's pieces count as the work before it."""
    num_pieces = sum(start_s < at_s <= end_s for at_s in answer.times_s)
    per_piece = answer.num_tokens / len(answer.times_s) if answer.is_whole else 1.0
    return num_pieces * per_piece


def goodput(answers: Iterable[Answer], is_good: Callable[[Answer], bool], start_s: float, end_s: float) -> float:
    """Answers per second that ended whole and good in a span of time."""
    num_good = sum(one.is_whole and is_good(one) and start_s < one.ended_at_s <= end_s for one in answers)
    return num_good / (end_s - start_s)


def gaps_within(answers: Iterable[Answer], start_s: float, end_s: float) -> list[float]:
    """Between tokens, of those gaps that ended in a span of time."""
    return [
        later - earlier for answer in answers for earlier, later in pairwise(answer.times_s) if start_s < later <= end_s
    ]


def summary(answers: Sequence[Answer]) -> str:
    """One row of a table with HEADINGS, but for its name."""
    ttfts = [one.ttft_s for one in answers if one.ttft_s is not None]
    gaps = [gap for one in answers for gap in one.gaps_s]
    num_refused = sum(one.is_refused for one in answers)
    num_errors = sum(one.error is not None for one in answers) - num_refused
    figures = [f"{steady_rate(answers):.1f}", _in_ms(ttfts), _in_ms(gaps)]
    return " | ".join([str(len(answers)), str(num_errors), str(num_refused), *figures])


HEADINGS = "| | requests | errors | refused | tokens/s | first token p50/p95/p99 ms | between p50/p95/p99 ms |"


def _in_ms(seconds: Sequence[float]) -> str:
    return " / ".join(f"{1000 * percentile(seconds, percent):.0f}" for percent in (50, 95, 99))
