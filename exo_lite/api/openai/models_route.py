"""GET /v1/models and /v1/models/{id}: what a request would get, loaded or not."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.responses import JSONResponse, Response

from exo_lite.api.daemon_api import DaemonApi
from exo_lite.domain.placement import ServedModel


def models_router(daemon: DaemonApi) -> APIRouter:
    router = APIRouter()

    @router.get("/v1/models", response_model=None)
    async def list_models() -> Response:
        return JSONResponse({"object": "list", "data": [_document(model) for model in await daemon.models()]})

    @router.get("/v1/models/{name:path}", response_model=None)
    async def show_model(name: str) -> Response:
        return JSONResponse(_document(await daemon.model(name)))

    return router


def _document(model: ServedModel) -> dict[str, object]:
    return {
        "id": model.id,
        "object": "model",
        "created": model.created,
        "owned_by": "exo-lite",
        "state": model.state,
        "context_length": model.context_length,
        "max_model_len": model.context_length,  # what vLLM calls it, and clients of its kind look for
    }
