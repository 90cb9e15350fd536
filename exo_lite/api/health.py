"""GET /health, /readyz and /metrics, for whatever watches this daemon."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.responses import JSONResponse, Response

from exo_lite.api.daemon_api import DaemonApi
from exo_lite.api.metrics import RequestMetrics
from exo_lite.domain.errors import NotReady

HEALTH_PATH = "/health"


def health_router(daemon: DaemonApi, metrics: RequestMetrics) -> APIRouter:
    router = APIRouter()

    @router.api_route(HEALTH_PATH, methods=["GET", "HEAD"], response_model=None)
    async def health() -> Response:
        return JSONResponse({"status": "ok"})

    @router.api_route("/readyz", methods=["GET", "HEAD"], response_model=None)
    async def readyz() -> Response:
        if reason := daemon.not_ready_reason():
            raise NotReady(reason)
        return JSONResponse({"status": "ready"})

    @router.get("/metrics", response_model=None)
    async def scrape() -> Response:
        return Response(metrics.exposition(), media_type=metrics.content_type)

    return router
