"""OpenAI's API as one dialect: chats, completions, models."""

from __future__ import annotations

from fastapi import APIRouter

from exo_lite.api.dialects import Dialect
from exo_lite.api.generation_context import GenerationContext
from exo_lite.api.openai.chat_completions import chat_router
from exo_lite.api.openai.completions import completions_router
from exo_lite.api.openai.framing import FRAMING, error_document
from exo_lite.api.openai.models_route import models_router


def _routes(context: GenerationContext) -> APIRouter:
    router = APIRouter()
    router.include_router(models_router(context.daemon))
    router.include_router(chat_router(context))
    router.include_router(completions_router(context))
    return router


OPENAI = Dialect(_routes, FRAMING, error_document)
