"""POST /v1/completions: `n` choices per prompt."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from exo_lite.api.answers import Collected, Extras, Head, completion_choice, completion_chunk, new_head, usage_document
from exo_lite.api.backend import HeldModel, TextModel
from exo_lite.api.bodies import read_body
from exo_lite.api.gate import tenant_of
from exo_lite.api.generation import Service, answer_all
from exo_lite.api.jobs import Job, make_job, repeated, style_of
from exo_lite.api.logprobs import completion_logprobs, echoed_tokens
from exo_lite.api.openai_bodies import CompletionBody, check_num_choices, prompts_of
from exo_lite.api.parameters import ignored_header, refuse_unsupported, unknown_parameters
from exo_lite.api.pieces import Piece, ScoredToken
from exo_lite.api.sse import DONE, EventStream, Write, sse_event, until_disconnected
from exo_lite.api.text_work import encode_within_context
from exo_lite.domain.request import Logprobs

DEFAULT_MAX_TOKENS = 16
"""OpenAI's."""


def completions_router(service: Service) -> APIRouter:
    router = APIRouter()

    @router.post("/v1/completions", response_model=None)
    async def completions(request: Request) -> Response:
        body = await read_body(request, CompletionBody, service.text_work)
        headers = ignored_header(unknown_parameters(body))
        prepared = _prepared(service, body, tenant_of(request.scope))
        if not body.stream:
            return JSONResponse(await until_disconnected(request.receive, _whole(prepared)), headers=headers)
        return EventStream(partial(_stream, prepared), keep_alive_s=service.keep_alive_s, headers=headers)

    return router


async def _whole(prepared: AbstractAsyncContextManager[_CompletionCall]) -> dict[str, object]:
    async with prepared as call:
        return await call.whole()


async def _stream(prepared: AbstractAsyncContextManager[_CompletionCall], write: Write) -> None:
    async with prepared as call:
        await call.stream(write)


@asynccontextmanager
async def _prepared(service: Service, body: CompletionBody, tenant: str) -> AsyncGenerator[_CompletionCall]:
    """All that can be refused is refused here, before anything is sent to a node."""
    refuse_unsupported(body)
    style = style_of(body, max_tokens=DEFAULT_MAX_TOKENS if body.max_tokens is None else body.max_tokens, tenant=tenant)
    prompts = prompts_of(body.prompt)
    check_num_choices(len(prompts), body.num_candidates)
    async with service.backend.serve(body.model, body.keep_alive_s) as model:
        num_chars = sum(map(len, prompts))
        encode = partial(_encoded, model.text, prompts, body.add_special_tokens is not False)
        encoded = await service.text_work.run(num_chars, encode)
        singles = [make_job(model.text, token_ids, style, param="prompt") for token_ids in encoded]
        jobs = repeated(singles, body.num_candidates)
        echo = partial(_echoes, model.text, prompts)
        echoes = await service.text_work.run(num_chars, echo) if body.echo else [""] * len(prompts)
        head = new_head("cmpl", body.model, model.fingerprint)
        describe = None if body.logprobs is None else partial(completion_logprobs, model.text)
        extras = Extras(bool(body.return_token_ids), describe)
        options = _Options(echoes, body.include_usage, extras, body.num_candidates, body.n or 1)
        yield _CompletionCall(service, model, jobs, head, options)


def _encoded(model: TextModel, prompts: Sequence[str | list[int]], add_bos: bool) -> list[list[int]]:
    return [
        encode_within_context(model, prompt, add_bos=add_bos, param="prompt") if isinstance(prompt, str) else prompt
        for prompt in prompts
    ]


def _echoes(model: TextModel, prompts: Sequence[str | list[int]]) -> list[str]:
    return [prompt if isinstance(prompt, str) else _decoded(model, prompt) for prompt in prompts]


def _decoded(model: TextModel, token_ids: Sequence[int]) -> str:
    stream = model.text_stream(())
    return "".join(stream.push(token_id)[0] for token_id in token_ids) + stream.finish()


@dataclass(frozen=True, slots=True)
class _Options:
    """`echoes` holds what stands before the answers to each prompt: the prompt, or nothing."""

    echoes: Sequence[str]
    include_usage: bool
    extras: Extras
    num_candidates: int
    """Drawn for each prompt; of these, the best `n` are told."""
    n: int


class _CompletionCall:
    """One call that nothing speaks against."""

    def __init__(self, service: Service, model: HeldModel, jobs: list[Job], head: Head, options: _Options) -> None:
        self._service = service
        self._model = model
        self._jobs = jobs
        self._head = head
        self._options = options

    async def whole(self) -> dict[str, object]:
        answers = [Collected() for _ in self._jobs]

        async def collect(index: int, piece: Piece) -> None:
            answers[index].add(piece)

        watch = await answer_all(self._service, self._model, self._jobs, collect)
        told = [(prompt, one) for prompt in range(len(self._options.echoes)) for one in self._best(answers, prompt)]
        choices = [
            completion_choice(
                index,
                answer,
                self._options.extras,
                echo=self._options.echoes[prompt],
                echoed=self._echoed(prompt * self._options.num_candidates, answer.prompt_logprobs),
            )
            for index, (prompt, answer) in enumerate(told)
        ]
        return {**self._head.document("text_completion", choices), **usage_document(self._jobs, watch)}

    def _echoed(self, job: int, logprobs: Sequence[Logprobs]) -> list[ScoredToken]:
        """A prompt's tokens, where they are scored."""
        asked = self._jobs[job].request
        return echoed_tokens(self._model.text, asked.token_ids, logprobs) if asked.sampling.prompt_logprobs else []

    def _best(self, answers: Sequence[Collected], prompt: int) -> Sequence[Collected]:
        """The answers to a prompt that are told."""
        count, n = self._options.num_candidates, self._options.n
        drawn = answers[prompt * count : (prompt + 1) * count]
        return drawn if n == count else sorted(drawn, key=lambda one: one.mean_logprob, reverse=True)[:n]

    async def stream(self, write: Write) -> None:
        unsent_echoes = {index: self._options.echoes[index // self._options.n] for index in range(len(self._jobs))}

        async def send(index: int, piece: Piece) -> None:
            if echo := unsent_echoes.pop(index, ""):
                echoed = tuple(self._echoed(index, piece.prompt_logprobs))
                await self._write_piece(write, index, Piece(echo, scored=echoed))
            num_before = len(self._options.echoes[index // self._options.n])
            scored = tuple(replace(one, text_offset=one.text_offset + num_before) for one in piece.scored)
            await self._write_piece(write, index, replace(piece, scored=scored))

        watch = await answer_all(self._service, self._model, self._jobs, send)
        if self._options.include_usage:
            await write(sse_event({**self._chunk([]), **usage_document(self._jobs, watch)}))
        await write(DONE)

    async def _write_piece(self, write: Write, index: int, piece: Piece) -> None:
        chunk = completion_chunk(index, piece, self._options.extras)
        await write(sse_event(self._chunk([chunk])))

    def _chunk(self, choices: list[dict[str, object]]) -> dict[str, object]:
        usage = {"usage": None} if self._options.include_usage else {}
        return {**self._head.document("text_completion", choices), **usage}
