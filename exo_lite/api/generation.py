"""From jobs to pieces of text: tokens out of the backend, stop strings, times, metrics."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field

from exo_lite.api.backend import Backend, HeldModel
from exo_lite.api.jobs import Job
from exo_lite.api.metrics import RequestMetrics
from exo_lite.api.pieces import Piece, Transcript, nothing_of
from exo_lite.api.text_work import TextWork
from exo_lite.domain.errors import ExoLiteError
from exo_lite.domain.request import Token

Clock = Callable[[], float]
"""Seconds, monotonic."""

MAX_PARALLEL_JOBS = 8
"""Of one call with several prompts; the others follow as these end."""


@dataclass(frozen=True, slots=True)
class Service:
    """What the generating routes stand on. `keep_alive_s` is the longest silence in a stream."""

    backend: Backend
    metrics: RequestMetrics
    clock: Clock = time.monotonic
    keep_alive_s: float = 10.0
    text_work: TextWork = field(default_factory=TextWork)


Emit = Callable[[int, Piece], Awaitable[None]]
"""Takes the index of a job and its next piece."""


class Stopwatch:
    """Times of one call over all of its jobs."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._started_at_s = clock()
        self._first_at_s: float | None = None
        self._last_at_s = self._started_at_s
        self.num_tokens = 0
        self.num_cached_tokens = 0

    def token_seen(self, token: Token, job: Job) -> None:
        self._last_at_s = self._clock()
        self._first_at_s = self._last_at_s if self._first_at_s is None else self._first_at_s
        self.num_tokens += not job.is_prompt_only
        if job.after is None:  # what further answers of a prompt find in the cache is no news
            self.num_cached_tokens += token.num_cached_tokens

    def timings(self, num_prompt_tokens: int) -> dict[str, float]:
        """As llama.cpp's server has them: `prompt_n` counts what was computed, `cache_n` what was found in the cache.

        `prompt_ms` is the time to the first token; the second rate is that of the tokens after it.
        """
        first_at_s = self._last_at_s if self._first_at_s is None else self._first_at_s
        prompt_s, decode_s = first_at_s - self._started_at_s, self._last_at_s - first_at_s
        num_computed, num_decoded = num_prompt_tokens - self.num_cached_tokens, max(0, self.num_tokens - 1)
        return {
            "cache_n": self.num_cached_tokens,
            "prompt_n": num_computed,
            "prompt_ms": round(1000 * prompt_s, 3),
            "prompt_per_token_ms": _ratio(1000 * prompt_s, num_computed),
            "prompt_per_second": _ratio(num_computed, prompt_s),
            "predicted_n": self.num_tokens,
            "predicted_ms": round(1000 * decode_s, 3),
            "predicted_per_token_ms": _ratio(1000 * decode_s, num_decoded),
            "predicted_per_second": _ratio(num_decoded, decode_s),
        }


def _ratio(value: float, by: float) -> float:
    return round(value / by, 3) if by > 0 else 0.0


async def answer_all(service: Service, model: HeldModel, jobs: Sequence[Job], emit: Emit) -> Stopwatch:
    """Answer jobs side by side. The first error ends all of them and is raised."""
    watch = Stopwatch(service.clock)
    places = asyncio.Semaphore(MAX_PARALLEL_JOBS)
    begun = [asyncio.Event() for _ in jobs]

    async def one(index: int, job: Job) -> None:
        if job.after is not None:
            await begun[job.after].wait()
        async with places:
            await _answer(service, model, job, _Listener(index, emit, watch, begun[index]))

    if len(jobs) == 1:
        await one(0, jobs[0])
        return watch
    try:
        async with asyncio.TaskGroup() as tasks:
            for index, job in enumerate(jobs):
                tasks.create_task(one(index, job))
    except BaseExceptionGroup as group:
        raise _first_error(group) from group
    return watch


@dataclass(frozen=True, slots=True)
class _Listener:
    index: int
    emit: Emit
    watch: Stopwatch
    begun: asyncio.Event
    """Set with the first token."""


async def _answer(service: Service, model: HeldModel, job: Job, listener: _Listener) -> None:
    """However this ends, the generation ends with it on every node."""
    request, sampling = job.request, job.request.sampling
    text = model.text.text_stream(job.stops, min_tokens=sampling.min_tokens, skip_special=job.skip_special)
    transcript = Transcript(text, request.stop_token_ids, scores_end=sampling.prompt_logprobs)
    with service.metrics.request(service.clock, num_prompt_tokens=len(request.token_ids)) as observed:
        async with aclosing(model.answer(request)) as tokens:
            async for token in tokens:
                observed.token_seen()
                listener.watch.token_seen(token, job)
                listener.begun.set()
                piece = nothing_of(token) if job.is_prompt_only else transcript.push(token)
                if piece is None:
                    continue
                await listener.emit(listener.index, piece)
                if piece.finish_reason is not None:
                    observed.finished(piece.finish_reason)
                    return
    raise ExoLiteError("the answer broke off without a reason: ask again, and report it if it stays")


def _first_error(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
