"""Routes for the CLI's verbs: state, load, unload, plan."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from exo_lite.api.bodies import read_body
from exo_lite.api.daemon_api import DaemonApi
from exo_lite.api.load_bodies import LoadBody, PlanBody
from exo_lite.api.plan_document import plan_document
from exo_lite.api.text_work import TextWork
from exo_lite.api.trace_document import traces_document


def control_router(daemon: DaemonApi, work: TextWork) -> APIRouter:
    router = APIRouter(prefix="/api/v1")

    @router.get("/state", response_model=None)
    async def state() -> Response:
        return JSONResponse(daemon.state())

    @router.post("/plan", response_model=None)
    async def plan(request: Request) -> Response:
        body = await read_body(request, PlanBody, work)
        offers = [node.offer() for node in body.nodes] if body.nodes is not None else None
        return JSONResponse(plan_document(await daemon.plan(body.model, body.load_request(), offers)))

    @router.post("/models/{model_id:path}/load", response_model=None)
    async def load(model_id: str, request: Request) -> Response:
        body = await read_body(request, LoadBody, work) if await request.body() else LoadBody()
        instance = await daemon.load(model_id, body.load_request())
        document = {"id": instance.model_id, "state": instance.state, "epoch": instance.epoch}
        return JSONResponse(document, status_code=202)

    @router.post("/models/{model_id:path}/unload", response_model=None)
    async def unload(model_id: str) -> Response:
        await daemon.unload(model_id)
        return JSONResponse({"id": model_id})

    @router.get("/models/{model_id:path}/traces", response_model=None)
    async def traces(model_id: str) -> Response:
        return JSONResponse(traces_document(await daemon.traces(model_id)))

    return router
