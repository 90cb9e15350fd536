"""The other stages as a worker needs them. `transport.peers.GrpcPeers` is the real one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol, TypeVar

from exo_lite.domain.errors import NodeLost
from exo_lite.domain.ids import Epoch
from exo_lite.domain.pipeline import Endpoint
from exo_lite.domain.step import StepMessage, StepResult

Item_co = TypeVar("Item_co", covariant=True)


class Incoming(Protocol[Item_co]):
    """A stream from another stage. It is iterated once; `close` may come from any thread, and ends the iteration."""

    def __iter__(self) -> Iterator[Item_co]: ...

    def close(self) -> None: ...


class StagePeers(Protocol):
    def steps(self, endpoint: Endpoint, epoch: Epoch) -> Incoming[StepMessage]: ...

    def results(self, endpoint: Endpoint, epoch: Epoch) -> Incoming[StepResult]: ...

    async def until_silent(self, endpoint: Endpoint) -> NodeLost: ...
