"""POST /v1/chat/completions: from the body to a neutral request, and from its answers to OpenAI's documents."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
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
from exo_lite.api.openai.chat_messages import prompt_format, template_messages
from exo_lite.api.openai.choices import ChoiceDetails, chat_choice, chat_chunks, chat_role_chunk
from exo_lite.api.openai.framing import FRAMING
from exo_lite.api.openai.logprobs import chat_logprobs
from exo_lite.api.openai.parameters import ignored_header, refuse_unsupported, unknown_parameters
from exo_lite.api.openai.request_bodies import ChatBody
from exo_lite.api.pieces import Collected, Piece
from exo_lite.api.prompts import Prompt
from exo_lite.api.rendering import Reply
from exo_lite.api.usage import Usage
from exo_lite.domain.chat import ChatRequest


def chat_router(context: GenerationContext) -> APIRouter:
    router = APIRouter()

    @router.post("/v1/chat/completions", response_model=None)
    async def chat_completions(request: Request) -> Response:
        body = await read_body(request, ChatBody, context.text_work)
        headers = ignored_header(unknown_parameters(body))
        asked = chat_request(body, tenant_of(request.scope))
        reply = Reply(partial(ChatRendering, body), FRAMING, bool(body.stream), headers)
        return await respond(context, request, asked, reply)

    return router


def chat_request(body: ChatBody, tenant: str) -> ChatRequest:
    """Raises InvalidRequest naming the parameter at fault."""
    refuse_unsupported(body)
    options = answer_options(body, tenant, max_tokens=body.max_completion_tokens or body.max_tokens)
    return ChatRequest(
        options,
        template_messages(body.messages),
        prompt_format(body),
        adds_special_tokens=bool(body.add_special_tokens),
        tools=tuple(body.tools or ()),
        response_format=None if body.response_format == {"type": "text"} else body.response_format,
    )


class ChatRendering:
    """The documents of one call: `chat.completion`, or its chunks in a stream."""

    def __init__(self, body: ChatBody, model: HeldModel, prompts: Sequence[Prompt]) -> None:
        self._header = new_header("chatcmpl", body.model, model.fingerprint)
        self._events = ChunkEvents(self._header, "chat.completion.chunk", body.include_usage)
        describe = partial(chat_logprobs, model.text) if body.logprobs else None
        self._details = ChoiceDetails(bool(body.return_token_ids), describe)
        self._begun: set[int] = set()

    def whole(self, answers: Sequence[Collected], usage: Usage) -> Document:
        choices = [chat_choice(index, answer, self._details) for index, answer in enumerate(answers)]
        return {**self._header.document("chat.completion", choices), **usage_document(usage)}

    def piece(self, index: int, piece: Piece) -> Iterable[bytes]:
        roles = [] if index in self._begun else [chat_role_chunk(index)]
        self._begun.add(index)
        return [self._events.event([chunk]) for chunk in (*roles, *chat_chunks(index, piece, self._details))]

    def end(self, usage: Usage) -> Iterable[bytes]:
        return self._events.end(usage)
