"""POST /v1/chat/completions."""

from __future__ import annotations

import asyncio
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
from exo_lite.api.backend import TextModel
from exo_lite.api.gate import tenant_of
from exo_lite.api.generation import Service, answer_all
from exo_lite.api.jobs import Job, make_job, style_of
from exo_lite.api.logprobs import chat_logprobs
from exo_lite.api.openai_bodies import ChatBody, refuse_unsupported, template_messages
from exo_lite.api.pieces import Piece
from exo_lite.api.sse import DONE, EventStream, Write, sse_event, until_disconnected


def chat_router(service: Service) -> APIRouter:
    router = APIRouter()

    @router.post("/v1/chat/completions", response_model=None)
    async def chat_completions(body: ChatBody, request: Request) -> Response:
        prepared = _prepared(service, body, tenant_of(request.scope))
        if not body.stream:
            return JSONResponse(await until_disconnected(request.receive, _whole(prepared)))
        return EventStream(partial(_stream, prepared), keep_alive_s=service.keep_alive_s)

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
    messages = template_messages(body.messages)
    async with service.backend.text_model(body.model, body.keep_alive_s) as model:
        token_ids = await asyncio.to_thread(_prompt_token_ids, model, messages)
        job = make_job(body.model, model, token_ids, style, param="messages")
        head = new_head("chatcmpl", body.model, service.backend.fingerprint(body.model))
        yield _ChatCall(service, body, model, job, head)


def _prompt_token_ids(model: TextModel, messages: list[dict[str, object]]) -> list[int]:
    return model.encode(model.render_chat(messages), add_bos=False)  # templates write it themselves


class _ChatCall:
    """One call that nothing speaks against."""

    def __init__(self, service: Service, body: ChatBody, model: TextModel, job: Job, head: Head) -> None:
        self._service = service
        self._model = model
        self._job = job
        self._head = head
        self._include_usage = body.include_usage
        describe = partial(chat_logprobs, model) if body.logprobs else None
        self._extras = Extras(bool(body.return_token_ids), describe)

    async def whole(self) -> dict[str, object]:
        answer = Collected()

        async def collect(index: int, piece: Piece) -> None:
            answer.add(piece)

        watch = await answer_all(self._service, self._model, [self._job], collect)
        choice = chat_choice(answer, self._extras)
        return {**self._head.document("chat.completion", [choice]), **usage_document([self._job], watch)}

    async def stream(self, write: Write) -> None:
        has_begun = False

        async def send(index: int, piece: Piece) -> None:
            nonlocal has_begun
            chunks = chat_chunks(piece, self._extras)
            for chunk in chunks if has_begun else [chat_role_chunk(), *chunks]:
                await write(sse_event(self._chunk([chunk])))
            has_begun = True

        watch = await answer_all(self._service, self._model, [self._job], send)
        if self._include_usage:
            await write(sse_event({**self._chunk([]), **usage_document([self._job], watch)}))
        await write(DONE)

    def _chunk(self, choices: list[dict[str, object]]) -> dict[str, object]:
        usage = {"usage": None} if self._include_usage else {}
        return {**self._head.document("chat.completion.chunk", choices), **usage}
