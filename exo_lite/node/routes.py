"""The choice of a route: the address at which a peer is best reached."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from exo_lite.domain.clock import Clock
from exo_lite.domain.errors import ExoLiteError, NotReachable
from exo_lite.domain.node import NodeIdentity
from exo_lite.node.peers import Peers

OTHERS_WAIT_S = 0.1
"""How long the other addresses may take once one has answered: a way that is slower by that much is not wanted."""
ABOUT_AS_FAST = 1.5
ABOUT_AS_FAST_MS = 1.0
"""Round trips that differ by no more are alike, and the peer's own order decides."""


@dataclass(frozen=True, slots=True)
class Route:
    address: str
    rtt_ms: float


async def find_route(
    peers: Peers, clock: Clock, theirs: NodeIdentity, addresses: Sequence[str], *, timeout_s: float
) -> Route:
    """The best address where the peer itself answers. Raises NotReachable with what became of each."""
    tries = {address: asyncio.ensure_future(_try(peers, clock, theirs, address, timeout_s)) for address in addresses}
    pending: set[asyncio.Future[Route]] = set(tries.values())
    try:
        while pending and not (found := _found(tries.values())):
            _, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
        if pending:
            await asyncio.wait(pending, timeout=OTHERS_WAIT_S)
        found = _found(tries.values())
    finally:
        for one in tries.values():
            one.cancel()
        if tries:
            await asyncio.wait(tries.values())
    if not found:
        raise _not_reachable(theirs, tries)
    return best(found)


def best(routes: Sequence[Route]) -> Route:
    """The first that is about as fast as the fastest."""
    fastest_ms = min(route.rtt_ms for route in routes)
    limit_ms = max(ABOUT_AS_FAST * fastest_ms, fastest_ms + ABOUT_AS_FAST_MS)
    return next(route for route in routes if route.rtt_ms <= limit_ms)


def _found(tries: Iterable[asyncio.Future[Route]]) -> list[Route]:
    return [one.result() for one in tries if one.done() and not one.cancelled() and one.exception() is None]


async def _try(peers: Peers, clock: Clock, theirs: NodeIdentity, address: str, timeout_s: float) -> Route:
    async with peers.node(address) as client:
        answer = await client.identify(timeout_s=timeout_s)
        if answer.boot_id != theirs.boot_id:
            raise NotReachable(f"{address} is not {theirs.name} but {answer.name}")
        started_s = clock.now()  # only now: the first call made the connection
        await client.identify(timeout_s=timeout_s)
        return Route(address, (clock.now() - started_s) * 1000)


def _not_reachable(theirs: NodeIdentity, tries: Mapping[str, asyncio.Future[Route]]) -> ExoLiteError:
    causes = [str(one.exception()) for one in tries.values() if one.done() and not one.cancelled()]
    where = "its own address" if len(tries) == 1 else "any of its own addresses"
    listed = ", ".join(tries) or "it names none"
    return NotReachable(f"{theirs.name} cannot be reached at {where} {listed}: {'; '.join(causes) or 'no answer'}")
