"""Answers whole and in a stream: the one way from a dialect's request to what its client gets.

A route makes a neutral request of a body and calls `respond`. There the model is held, the prompts are read, and the
pieces of the answers go to a Rendering, with which the dialect says how they look.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from exo_lite.api.backend import HeldModel
from exo_lite.api.dialects import Framing
from exo_lite.api.generation import Emit, Service, answer_all
from exo_lite.api.jobs import Job, make_jobs
from exo_lite.api.pieces import Collected, Piece
from exo_lite.api.prompts import Prompt, read_prompts
from exo_lite.api.streamed_response import StreamedResponse, Write, until_disconnected
from exo_lite.api.usage import Usage
from exo_lite.domain.chat import AnyRequest


@dataclass(frozen=True, slots=True)
class ServedCall:
    """What a rendering may know of the call whose answers it renders."""

    model: HeldModel
    prompts: Sequence[Prompt]
    """Each has the same number of answers; those to one prompt have indices side by side."""


class Rendering(Protocol):
    """The answers of one call in the words of a dialect."""

    def whole(self, answers: Sequence[Collected], usage: Usage) -> Mapping[str, object]:
        """Make the document of all answers, in the order of their indices."""
        ...

    def piece(self, index: int, piece: Piece) -> Iterable[bytes]:
        """Write the next piece of the answer with this index, framed."""
        ...

    def end(self, usage: Usage) -> Iterable[bytes]:
        """Write what comes after all answers of a stream, framed."""
        ...


Render = Callable[[ServedCall], Rendering]


@dataclass(frozen=True, slots=True)
class Reply:
    """How a dialect wants a call answered."""

    render: Render
    framing: Framing
    is_streamed: bool
    headers: Mapping[str, str] = field(default_factory=dict)


async def respond(service: Service, http: Request, request: AnyRequest, reply: Reply) -> Response:
    """Answer a request whose body was read; a client that goes away ends the generation on every node."""
    if reply.is_streamed:
        produce = partial(streamed_answer, service, request, reply.render)
        return StreamedResponse(
            produce, framing=reply.framing, keep_alive_s=service.keep_alive_s, headers=reply.headers
        )
    document = await until_disconnected(http.receive, whole_answer(service, request, reply.render))
    return JSONResponse(document, headers=reply.headers)


async def whole_answer(service: Service, request: AnyRequest, render: Render) -> Mapping[str, object]:
    """Collect all answers. Raises ExoLiteError before anything is generated where the request can be refused."""
    async with service.backend.serve(request.options.model, request.options.keep_alive_s) as model:
        call, jobs = await _prepared(service, model, request)
        rendering = render(call)
        answers = [Collected() for _ in jobs]

        async def collect(index: int, piece: Piece) -> None:
            answers[index].add(piece)

        usage = await answer_all(service, model, jobs, collect)
        return rendering.whole(answers, usage)


async def streamed_answer(service: Service, request: AnyRequest, render: Render, write: Write) -> None:
    """Write the pieces of all answers as they come. Raises as `whole_answer` does, before the first write."""
    async with service.backend.serve(request.options.model, request.options.keep_alive_s) as model:
        call, jobs = await _prepared(service, model, request)
        rendering = render(call)

        async def send(index: int, piece: Piece) -> None:
            for data in rendering.piece(index, piece):
                await write(data)

        usage = await answer_all(service, model, jobs, send)
        for data in rendering.end(usage):
            await write(data)


async def _prepared(service: Service, model: HeldModel, request: AnyRequest) -> tuple[ServedCall, list[Job]]:
    """Read the prompts and plan the answers; nothing has been sent to a node yet."""
    prompts = await service.text_work.run(request.num_chars, partial(read_prompts, model.text, request))
    jobs = make_jobs(model.text, prompts, request.options)
    return ServedCall(model, prompts), jobs
