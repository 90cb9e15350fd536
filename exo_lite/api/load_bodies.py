"""The bodies of `load` and `plan`, with a field for each load option."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, create_model

from exo_lite.domain.ids import NodeId
from exo_lite.domain.keep_alive import KeepAlive, parse_keep_alive
from exo_lite.domain.load_options import LOAD_OPTIONS, LoadOption, LoadRequest, load_request_from_json
from exo_lite.domain.plan import NodeOffer

MAX_OFFERS = 1024


class _Body(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")


class _LoadOptionsBody(_Body):
    """How a model is to be held; an option that is left out takes its default."""

    def load_request(self) -> LoadRequest:
        """Raises InvalidRequest."""
        return load_request_from_json(self.model_dump())


class _LoadBody(_LoadOptionsBody):
    """`on_demand`: as a request does it, so that whatever of the model is placed already will do."""

    keep_alive: KeepAlive | None = None
    on_demand: bool = False

    def load_request(self) -> LoadRequest:
        kept_s = None if self.keep_alive is None else parse_keep_alive(self.keep_alive)
        return replace(super().load_request(), keep_alive_s=kept_s, is_on_demand=self.on_demand)


class OfferBody(_Body):
    """A machine that need not be there."""

    name: str = Field(min_length=1, max_length=256)
    memory_bytes: int = Field(ge=0, lt=2**63)

    def offer(self) -> NodeOffer:
        return NodeOffer(NodeId(self.name), self.name, self.memory_bytes)


class _PlanBody(_LoadOptionsBody):
    model: str
    nodes: list[OfferBody] | None = Field(default=None, min_length=1, max_length=MAX_OFFERS)


def _type_of(option: LoadOption) -> Any:
    if option.kind is int:
        limits = Field(ge=1, lt=2**31) if option.maximum is None else Field(ge=1, le=option.maximum)
        return Annotated[int, limits]
    return option.kind | Literal["auto"] if option.has_auto else option.kind


_OPTION_FIELDS: dict[str, Any] = {option.name: (_type_of(option) | None, None) for option in LOAD_OPTIONS}

LoadBody = create_model("LoadBody", __base__=_LoadBody, **_OPTION_FIELDS)
PlanBody = create_model("PlanBody", __base__=_PlanBody, **_OPTION_FIELDS)
