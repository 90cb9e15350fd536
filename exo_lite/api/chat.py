"""POST /v1/chat/completions."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from exo_lite.api.answers import (
    Collected,
    Extras,
    Head,
    chat_choice,
    chat_chunks,
    chat_role_chunk,
    new_head,
    usage_document,
)
from exo_lite.api.backend import HeldModel, TextModel
from exo_lite.api.bodies import read_body
from exo_lite.api.gate import tenant_of
from exo_lite.api.generation import Service, answer_all
from exo_lite.api.jobs import Job, make_job, repeated, style_of
from exo_lite.api.logprobs import chat_logprobs
from exo_lite.api.openai_bodies import ChatBody, chat_style, template_messages
from exo_lite.api.parameters import ignored_header, refuse_unsupported, unknown_parameters
from exo_lite.api.pieces import Piece
from exo_lite.api.sse import DONE, EventStream, Write, sse_event, until_disconnected
from exo_lite.api.text_work import encode_within_context
from exo_lite.domain.chat import ChatStyle


def chat_router(service: Service) -> APIRouter:
    router = APIRouter()

    @router.post("/v1/chat/completions", response_model=None)
    async def chat_completions(request: Request) -> Response:
        body = await read_body(request, ChatBody, service.text_work)
        headers = ignored_header(unknown_parameters(body))
        prepared = _prepared(service, body, tenant_of(request.scope))
        if not body.stream:
            return JSONResponse(await until_disconnected(request.receive, _whole(prepared)), headers=headers)
        return EventStream(partial(_stream, prepared), keep_alive_s=service.keep_alive_s, headers=headers)

    return router


async def _whole(prepared: AbstractAsyncContextManager[_ChatCall]) -> dict[str, object]:
    async with prepared as call:
        return await call.whole()


async def _stream(prepared: AbstractAsyncContextManager[_ChatCall], write: Write) -> None:
    async with prepared as call:
        await call.stream(write)


@asynccontextmanager
async def _prepared(service: Service, body: ChatBody, tenant: str) -> AsyncGenerator[_ChatCall]:
    """All that can be refused is refused here, before anything is sent to a node."""
    refuse_unsupported(body)
    style = style_of(body, max_tokens=body.max_completion_tokens or body.max_tokens, tenant=tenant)
    messages, form = template_messages(body.messages), chat_style(body)
    async with service.backend.serve(body.model, body.keep_alive_s) as model:
        encode = partial(_prompt_token_ids, model.text, messages, form, bool(body.add_special_tokens))
        num_chars = sum(len(str(message["content"])) for message in messages)
        token_ids = await service.text_work.run(num_chars, encode)
        jobs = repeated([make_job(model.text, token_ids, style, param="messages")], body.n or 1)
        head = new_head("chatcmpl", body.model, model.fingerprint)
        yield _ChatCall(service, body, model, jobs, head)


def _prompt_token_ids(
    model: TextModel, messages: list[dict[str, object]], form: ChatStyle, add_special_tokens: bool
) -> list[int]:
    prompt = model.render_chat(messages, form)  # templates write special tokens themselves
    return encode_within_context(model, prompt, add_bos=add_special_tokens, param="messages")


class _ChatCall:
    """One call that nothing speaks against."""

    def __init__(self, service: Service, body: ChatBody, model: HeldModel, jobs: list[Job], head: Head) -> None:
        self._service = service
        self._model = model
        self._jobs = jobs
        self._head = head
        self._include_usage = body.include_usage
        describe = partial(chat_logprobs, model.text) if body.logprobs else None
        self._extras = Extras(bool(body.return_token_ids), describe)

    async def whole(self) -> dict[str, object]:
        answers = [Collected() for _ in self._jobs]

        async def collect(index: int, piece: Piece) -> None:
            answers[index].add(piece)

        watch = await answer_all(self._service, self._model, self._jobs, collect)
        choices = [chat_choice(index, answer, self._extras) for index, answer in enumerate(answers)]
        return {**self._head.document("chat.completion", choices), **usage_document(self._jobs, watch)}

    async def stream(self, write: Write) -> None:
        begun: set[int] = set()

        async def send(index: int, piece: Piece) -> None:
            chunks = chat_chunks(index, piece, self._extras)
            for chunk in chunks if index in begun else [chat_role_chunk(index), *chunks]:
                await write(sse_event(self._chunk([chunk])))
            begun.add(index)

        watch = await answer_all(self._service, self._model, self._jobs, send)
        if self._include_usage:
            await write(sse_event({**self._chunk([]), **usage_document(self._jobs, watch)}))
        await write(DONE)

    def _chunk(self, choices: list[dict[str, object]]) -> dict[str, object]:
        usage = {"usage": None} if self._include_usage else {}
        return {**self._head.document("chat.completion.chunk", choices), **usage}
