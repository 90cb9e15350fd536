"""The usage of a call: tokens counted, times measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from exo_lite.api.jobs import Job
from exo_lite.domain.request import Token

Clock = Callable[[], float]
"""Seconds, monotonic."""


@dataclass(frozen=True, slots=True)
class Usage:
    """The tokens and times of one call over all of its prompts and answers; each prompt counts once."""

    num_prompt_tokens: int
    num_cached_tokens: int
    """Tokens of the prompts that were found in the cache."""
    num_answer_tokens: int
    prompt_s: float
    """The time to the first token."""
    decode_s: float
    """The time from the first token to the last."""


class Stopwatch:
    """Times of one call over all of its jobs."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._started_at_s = clock()
        self._first_at_s: float | None = None
        self._last_at_s = self._started_at_s
        self._num_answer_tokens = 0
        self._num_cached_tokens = 0

    def token_seen(self, token: Token, job: Job) -> None:
        self._last_at_s = self._clock()
        self._first_at_s = self._last_at_s if self._first_at_s is None else self._first_at_s
        self._num_answer_tokens += not job.is_prompt_only
        if job.after is None:  # what further answers of a prompt find in the cache is no news
            self._num_cached_tokens += token.num_cached_tokens

    def usage(self, jobs: Sequence[Job]) -> Usage:
        first_at_s = self._last_at_s if self._first_at_s is None else self._first_at_s
        return Usage(
            sum(len(job.request.token_ids) for job in jobs if job.after is None),
            self._num_cached_tokens,
            self._num_answer_tokens,
            prompt_s=first_at_s - self._started_at_s,
            decode_s=self._last_at_s - first_at_s,
        )
