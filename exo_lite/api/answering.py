"""Answers whole and in a stream: the one way from a neutral request to what a client of any dialect gets.

`respond` holds the model, reads the prompts and answers them side by side; each token becomes a piece of text, and the
dialect's Rendering says how the pieces look.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from exo_lite.api.daemon_api import HeldModel
from exo_lite.api.generation_context import GenerationContext
from exo_lite.api.jobs import Job, make_jobs
from exo_lite.api.pieces import Collected, Piece, Transcript, nothing_of
from exo_lite.api.prompts import Prompt, read_prompts
from exo_lite.api.rendering import Render, Reply
from exo_lite.api.streamed_response import StreamedResponse, Write, until_disconnected
from exo_lite.api.usage import Stopwatch, Usage
from exo_lite.domain.chat import AnyRequest
from exo_lite.domain.errors import ExoLiteError

MAX_PARALLEL_JOBS = 8
"""The limit for one call with several prompts; the others follow as these end."""

Emit = Callable[[int, Piece], Awaitable[None]]
"""Takes the index of a job and its next piece."""


async def respond(context: GenerationContext, http: Request, request: AnyRequest, reply: Reply) -> Response:
    """Answer a request whose body was read; a client that goes away ends the generation on every node."""
    if reply.is_streamed:
        produce = partial(streamed_answer, context, request, reply.render)
        silence_s, headers = context.keep_alive_s, reply.headers
        return StreamedResponse(produce, framing=reply.framing, keep_alive_s=silence_s, headers=headers)
    document = await until_disconnected(http.receive, whole_answer(context, request, reply.render))
    return JSONResponse(document, headers=reply.headers)


async def whole_answer(context: GenerationContext, request: AnyRequest, render: Render) -> Mapping[str, object]:
    """Collect all answers. Raises ExoLiteError, before a node is asked for tokens where the request can be refused."""
    async with context.daemon.serve(request.options.model, request.options.keep_alive_s) as model:
        prompts = await _prompts(context, model, request)
        jobs, rendering = make_jobs(model.text, prompts, request.options), render(model, prompts)
        answers = [Collected() for _ in jobs]

        async def collect(index: int, piece: Piece) -> None:
            answers[index].add(piece)

        usage = await _answer_all(context, model, jobs, collect)
        return rendering.whole(answers, usage)


async def streamed_answer(context: GenerationContext, request: AnyRequest, render: Render, write: Write) -> None:
    """Write the pieces of all answers as they come. Raises as `whole_answer` does."""
    async with context.daemon.serve(request.options.model, request.options.keep_alive_s) as model:
        prompts = await _prompts(context, model, request)
        jobs, rendering = make_jobs(model.text, prompts, request.options), render(model, prompts)

        async def send(index: int, piece: Piece) -> None:
            for data in rendering.piece(index, piece):
                await write(data)

        usage = await _answer_all(context, model, jobs, send)
        for data in rendering.end(usage):
            await write(data)


async def _prompts(context: GenerationContext, model: HeldModel, request: AnyRequest) -> list[Prompt]:
    return await context.text_work.run(request.num_chars, partial(read_prompts, model.text, request))


async def _answer_all(context: GenerationContext, model: HeldModel, jobs: Sequence[Job], emit: Emit) -> Usage:
    """Answer jobs side by side. The first error ends all of them and is raised."""
    watch = Stopwatch(context.clock)
    places = asyncio.Semaphore(MAX_PARALLEL_JOBS)
    begun = [asyncio.Event() for _ in jobs]

    async def one(index: int, job: Job) -> None:
        if job.after is not None:
            await begun[job.after].wait()
        async with places:
            await _answer(context, model, job, _Listener(index, emit, watch, begun[index]))

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


async def _answer(context: GenerationContext, model: HeldModel, job: Job, listener: _Listener) -> None:
    """Turn one job's tokens into pieces. However this ends, the generation ends with it on every node."""
    request, sampling = job.request, job.request.sampling
    text = model.text.text_stream(job.stops, min_tokens=sampling.min_tokens, skip_special=job.skip_special)
    transcript = Transcript(text, request.stop_token_ids, scores_end=sampling.prompt_logprobs)
    with context.metrics.request(context.clock, num_prompt_tokens=len(request.token_ids)) as observed:
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
    raise ExoLiteError("the answer ended without a reason: try again, and report it if it happens again")


def _first_error(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
