"""What the CLI's verbs call: state, load, unload, plan."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from exo_lite.api.bodies import read_body
from exo_lite.api.daemon_api import DaemonApi
from exo_lite.api.plan_document import plan_document
from exo_lite.api.text_work import TextWork
from exo_lite.api.trace_document import traces_document
from exo_lite.domain.ids import NodeId
from exo_lite.domain.keep_alive import KeepAlive, parse_keep_alive
from exo_lite.domain.model_spec import DType, Quantization
from exo_lite.domain.plan import MAX_NUM_SLOTS, LoadWish, NodeOffer, Strategy

MAX_OFFERS = 1024


class WishBody(BaseModel):
    """How a model is to be held; what is left out comes from its own files."""

    model_config = ConfigDict(strict=True, extra="forbid")

    strategy: Strategy | None = None
    dtype: DType | Literal["auto"] | None = None
    quant: Quantization | None = None
    context: int | None = Field(default=None, ge=1, lt=2**31)
    slots: int | None = Field(default=None, ge=1, le=MAX_NUM_SLOTS)
    prefix_cache: bool | None = None
    speculation: bool | None = None

    def wish(self) -> LoadWish:
        default = LoadWish()
        return LoadWish(
            dtype=None if self.dtype == "auto" else self.dtype,
            quant=self.quant or default.quant,
            context_length=self.context,
            num_slots=self.slots,
            strategy=self.strategy or default.strategy,
            prefix_cache=default.prefix_cache if self.prefix_cache is None else self.prefix_cache,
            speculation=default.speculation if self.speculation is None else self.speculation,
        )


class LoadBody(WishBody):
    """`on_demand`: as a request does it, so that whatever of the model is placed already will do."""

    keep_alive: KeepAlive | None = None
    on_demand: bool = False

    def wish(self) -> LoadWish:
        kept_s = None if self.keep_alive is None else parse_keep_alive(self.keep_alive)
        return replace(super().wish(), keep_alive_s=kept_s, is_on_demand=self.on_demand)


class OfferBody(BaseModel):
    """A machine that need not be there."""

    model_config = ConfigDict(strict=True, extra="forbid")

    name: str = Field(min_length=1, max_length=256)
    memory_bytes: int = Field(ge=0, lt=2**63)

    def offer(self) -> NodeOffer:
        return NodeOffer(NodeId(self.name), self.name, self.memory_bytes)


class PlanBody(WishBody):
    model: str
    nodes: list[OfferBody] | None = Field(default=None, min_length=1, max_length=MAX_OFFERS)


def control_router(daemon: DaemonApi, work: TextWork) -> APIRouter:
    router = APIRouter(prefix="/api/v1")

    @router.get("/state", response_model=None)
    async def state() -> Response:
        return JSONResponse(daemon.state())

    @router.post("/plan", response_model=None)
    async def plan(request: Request) -> Response:
        body = await read_body(request, PlanBody, work)
        offers = [node.offer() for node in body.nodes] if body.nodes is not None else None
        return JSONResponse(plan_document(await daemon.plan(body.model, body.wish(), offers)))

    @router.post("/models/{model_id:path}/load", response_model=None)
    async def load(model_id: str, request: Request) -> Response:
        body = await read_body(request, LoadBody, work) if await request.body() else LoadBody()
        instance = await daemon.load(model_id, body.wish())
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
