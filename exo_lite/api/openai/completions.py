"""POST /v1/completions: from the body to a neutral request, and from its answers to OpenAI's documents."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from exo_lite.api.access import tenant_of
from exo_lite.api.answering import respond
from exo_lite.api.bodies import read_body
from exo_lite.api.daemon_api import HeldModel
from exo_lite.api.generation_context import GenerationContext
from exo_lite.api.openai.answer_documents import ChunkEvents, Document, new_header, usage_document
from exo_lite.api.openai.answer_options import answer_options
from exo_lite.api.openai.choices import ChoiceDetails, completion_choice, completion_chunk
from exo_lite.api.openai.framing import FRAMING
from exo_lite.api.openai.logprobs import completion_logprobs, echoed_tokens
from exo_lite.api.openai.parameters import ignored_header, refuse_unsupported, unknown_parameters
from exo_lite.api.openai.request_bodies import CompletionBody, check_num_choices, prompts_of
from exo_lite.api.pieces import Collected, Piece, ScoredToken
from exo_lite.api.prompts import Prompt
from exo_lite.api.rendering import Reply
from exo_lite.api.usage import Usage
from exo_lite.domain.chat import CompletionRequest
from exo_lite.domain.request import Logprobs

DEFAULT_MAX_TOKENS = 16
"""OpenAI's."""


def completions_router(context: GenerationContext) -> APIRouter:
    router = APIRouter()

    @router.post("/v1/completions", response_model=None)
    async def completions(request: Request) -> Response:
        body = await read_body(request, CompletionBody, context.text_work)
        headers = ignored_header(unknown_parameters(body))
        asked = completion_request(body, tenant_of(request.scope))
        reply = Reply(partial(CompletionRendering, body), FRAMING, bool(body.stream), headers)
        return await respond(context, request, asked, reply)

    return router


def completion_request(body: CompletionBody, tenant: str) -> CompletionRequest:
    """Raises InvalidRequest naming the parameter at fault."""
    refuse_unsupported(body)
    max_tokens = DEFAULT_MAX_TOKENS if body.max_tokens is None else body.max_tokens
    options = answer_options(body, tenant, max_tokens=max_tokens)
    prompts = prompts_of(body.prompt)
    check_num_choices(len(prompts), body.num_candidates)
    return CompletionRequest(
        replace(options, num_answers=body.num_candidates),
        prompts,
        adds_special_tokens=body.add_special_tokens is not False,
        is_echoed=bool(body.echo),
    )


class CompletionRendering:
    """The documents of one call: `text_completion`, whole or in a stream; the best `n` answers to each prompt."""

    def __init__(self, body: CompletionBody, model: HeldModel, prompts: Sequence[Prompt]) -> None:
        self._model, self._prompts = model.text, prompts
        self._num_candidates, self._n = body.num_candidates, body.n or 1
        self._scores_prompt = body.scores_prompt
        self._header = new_header("cmpl", body.model, model.fingerprint)
        self._events = ChunkEvents(self._header, "text_completion", body.include_usage)
        describe = None if body.logprobs is None else partial(completion_logprobs, model.text)
        self._details = ChoiceDetails(bool(body.return_token_ids), describe)
        self._begun: set[int] = set()

    def whole(self, answers: Sequence[Collected], usage: Usage) -> Document:
        told = [
            (prompt, answer) for number, prompt in enumerate(self._prompts) for answer in self._best(answers, number)
        ]
        choices = [
            completion_choice(
                index,
                answer,
                self._details,
                echo=prompt.echo,
                echoed=self._echoed(prompt, answer.prompt_logprobs),
            )
            for index, (prompt, answer) in enumerate(told)
        ]
        return {**self._header.document("text_completion", choices), **usage_document(usage)}

    def _best(self, answers: Sequence[Collected], number: int) -> Sequence[Collected]:
        """Choose the answers to a prompt that are told."""
        drawn = answers[number * self._num_candidates : (number + 1) * self._num_candidates]
        ranked = sorted(drawn, key=lambda one: one.mean_logprob, reverse=True)
        return drawn if self._n == self._num_candidates else ranked[: self._n]

    def _echoed(self, prompt: Prompt, logprobs: Sequence[Logprobs]) -> list[ScoredToken]:
        """Tell a prompt's tokens, where they are scored."""
        return echoed_tokens(self._model, prompt.token_ids, logprobs) if self._scores_prompt else []

    def piece(self, index: int, piece: Piece) -> Iterator[bytes]:
        prompt = self._prompts[index // self._n]
        if prompt.echo and index not in self._begun:
            yield self._event(index, Piece(prompt.echo, scored=tuple(self._echoed(prompt, piece.prompt_logprobs))))
        self._begun.add(index)
        scored = tuple(replace(one, text_offset=one.text_offset + len(prompt.echo)) for one in piece.scored)
        yield self._event(index, replace(piece, scored=scored))

    def _event(self, index: int, piece: Piece) -> bytes:
        return self._events.event([completion_chunk(index, piece, self._details)])

    def end(self, usage: Usage) -> Iterable[bytes]:
        return self._events.end(usage)
