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
from exo_lite.api.usage import Clock, Stopwatch, Usage
from exo_lite.domain.errors import ExoLiteError

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


async def answer_all(service: Service, model: HeldModel, jobs: Sequence[Job], emit: Emit) -> Usage:
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
        return watch.usage(jobs)
    try:
        async with asyncio.TaskGroup() as tasks:
            for index, job in enumerate(jobs):
                tasks.create_task(one(index, job))
    except BaseExceptionGroup as group:
        raise _first_error(group) from group
    return watch.usage(jobs)


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
