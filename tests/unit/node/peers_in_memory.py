"""Drivers without a network: each answers as a test says. They fit Peers as far as answers go."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field
from typing import cast

from exo_lite.domain.pipeline import Endpoint
from exo_lite.domain.request import GenerateRequest, Token
from exo_lite.domain.trace import RequestTrace
from exo_lite.node.peers import Peers

Generate = Callable[[GenerateRequest], AsyncGenerator[Token, None]]


@dataclass(eq=False)
class DriverInMemory:
    """The worker of a first stage."""

    endpoint: Endpoint
    peers: PeersInMemory
    is_closed: bool = False

    async def close(self) -> None:
        self.is_closed = True

    def generate(self, request: GenerateRequest) -> AsyncGenerator[Token, None]:
        self.peers.asked.append(request)
        return self.peers.generate(request)

    async def traces(self, *, timeout_s: float) -> tuple[RequestTrace, ...]:
        return ()


@dataclass
class PeersInMemory:
    generate: Generate
    asked: list[GenerateRequest] = field(default_factory=list)
    opened: list[DriverInMemory] = field(default_factory=list)

    def worker(self, endpoint: Endpoint) -> DriverInMemory:
        self.opened.append(DriverInMemory(endpoint, self))
        return self.opened[-1]


def peers_with(generate: Generate) -> tuple[PeersInMemory, Peers]:
    """The same object, as tests and as the node see it."""
    peers = PeersInMemory(generate)
    return peers, cast(Peers, peers)  # nothing else of peers is asked for
