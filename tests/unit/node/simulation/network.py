"""A network in memory: hosts, links between them that can be slow, lossy or cut, and what listens where.

Messages wait where a link is cut, as TCP's do, and go on when it is mended; whoever waits for an answer has a deadline.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from contextlib import aclosing
from typing import Any, TypeVar

from exo_lite.domain.addresses import split_address
from exo_lite.domain.errors import ConnectionRefused, ExoLiteError, NodeLost, PortSilent, error_class
from exo_lite.domain.request import Token

T = TypeVar("T")
Ask = Callable[[Any], Awaitable[T]]
"""What is asked of the handler that listens there."""

RETRANSMITTED_AFTER_S = 0.2
"""What a lost packet costs; twice as much each time that it is lost again."""


class Listener:
    """What answers at one address, with the calls that it is answering."""

    def __init__(self, network: Network, address: str, handler: Any) -> None:
        self.handler = handler
        self._network = network
        self._address = address
        self._calls: dict[asyncio.Task[Any], None] = {}

    def close(self) -> None:
        """Its process is gone: calls under way end, and later ones are refused."""
        self._network.no_longer(self._address, self)
        for call in self._calls:
            call.cancel()

    async def do(self, work: Awaitable[T]) -> T:
        """Raises what the work raises, or NodeLost where its process ends before."""
        call = asyncio.ensure_future(work)
        self._calls[call] = None
        try:
            return await call
        except asyncio.CancelledError:
            if _is_cancelled_itself():
                call.cancel()
                raise
            raise unanswered(NodeLost(f"{self._address} closed the connection: its process has ended")) from None
        finally:
            del self._calls[call]


class Network:
    """`delay_s`: of each message on its way, up to twice as much. `loss`: the share of packets that is lost."""

    def __init__(self, *, seed: int = 0, delay_s: float = 0.001, loss: float = 0.0) -> None:
        self.delay_s = delay_s
        self.loss = loss
        self.faults: list[Exception] = []
        """What handlers raised that no caller should see."""
        self.changed = asyncio.Event()
        """Set at the next change of links, listeners or sessions; take it before looking."""
        self._random = random.Random(seed)
        self._listeners: dict[str, Listener] = {}
        self._cut: set[tuple[str, str]] = set()
        self._next_port: dict[str, int] = {}

    # What the test does.

    def cut(self, one: str, other: str) -> None:
        """Nothing passes from the one host to the other any more."""
        self._cut.add((one, other))
        self.tell()

    def part(self, ones: Iterable[str], others: Iterable[str]) -> None:
        """Nothing passes between the two sides."""
        self._cut |= {pair for one in ones for other in others for pair in ((one, other), (other, one))}
        self.tell()

    def mend(self) -> None:
        """Everything passes again."""
        self._cut.clear()
        self.tell()

    # What nodes do.

    def listen(self, address: str, handler: Any) -> Listener:
        listener = self._listeners[address] = Listener(self, address, handler)
        self.tell()
        return listener

    def no_longer(self, address: str, listener: Listener) -> None:
        if self._listeners.get(address) is listener:
            del self._listeners[address]
            self.tell()

    def handler_at(self, address: str) -> Any:
        """None where nothing listens."""
        listener = self._listeners.get(address)
        return listener.handler if listener else None

    def free_port(self, host: str) -> int:
        port = self._next_port[host] = self._next_port.get(host, 60000) + 1
        return port

    def tell(self) -> None:
        """Something changed that others may wait for."""
        self.changed.set()
        self.changed = asyncio.Event()

    def passes(self, one: str, other: str) -> bool:
        return (one, other) not in self._cut

    def connects(self, one: str, other: str) -> bool:
        return self.passes(one, other) and self.passes(other, one)

    async def travel(self, one: str, other: str) -> None:
        await asyncio.sleep(self._delay_s() if one != other else 0.0)
        while not self.passes(one, other):
            await self.changed.wait()

    def _delay_s(self) -> float:
        delay_s, again_s = self.delay_s * (1 + self._random.random()), RETRANSMITTED_AFTER_S
        while self._random.random() < self.loss:
            delay_s, again_s = delay_s + again_s, 2 * again_s
        return delay_s

    async def stays_cut(self, one: str, other: str, silence_s: float) -> bool:
        """Whether nothing goes to and fro for so long; returns as soon as it does."""
        try:
            async with asyncio.timeout(silence_s):
                while not self.connects(one, other):
                    await self.changed.wait()
        except TimeoutError:
            return True
        return False

    async def until_silent(self, one: str, other: str, silence_s: float) -> None:
        """Wait until a way is silent for too long, as keepalive pings notice it."""
        while True:
            while self.connects(one, other):
                await self.changed.wait()
            if await self.stays_cut(one, other, silence_s):
                return

    async def check_port(self, caller: str, address: str, timeout_s: float) -> None:
        host = host_of(address)
        try:
            async with asyncio.timeout(timeout_s):
                await self.travel(caller, host)
                await self.travel(host, caller)
        except TimeoutError:
            raise PortSilent(f"{address} does not answer: timed out after {timeout_s:g} s") from None
        if address not in self._listeners:
            raise ConnectionRefused(f"{address} refuses connections: nothing listens there")

    async def call(self, caller: str, address: str, ask: Ask[T], *, timeout_s: float | None) -> T:
        """What the handler there returns or raises; ConnectionRefused, or NodeLost where no answer comes in time."""
        host = host_of(address)
        try:
            async with asyncio.timeout(timeout_s):
                await self.travel(caller, host)
                try:
                    answer = await self._answer(address, ask)
                except ExoLiteError:
                    await self.travel(host, caller)
                    raise
                await self.travel(host, caller)
                return answer
        except TimeoutError:
            raise unanswered(NodeLost(f"{address} did not answer in time")) from None

    async def _answer(self, address: str, ask: Ask[T]) -> T:
        listener = self._listeners.get(address)
        if listener is None:
            raise unanswered(ConnectionRefused(f"{address} refuses connections: its process is gone"))
        try:
            return await listener.do(ask(listener.handler))
        except ExoLiteError as error:
            raise as_received(error) from None
        except Exception as error:
            self.faults.append(error)
            raise NodeLost(f"{address} failed while it answered: its log says more") from error

    async def stream(
        self, caller: str, address: str, ask: Callable[[Any], AsyncGenerator[Token, None]], *, silence_s: float
    ) -> AsyncGenerator[Token, None]:
        """Call for an answer of many tokens, which ends with NodeLost once the way is silent for too long."""
        news: asyncio.Queue[Token | Exception | None] = asyncio.Queue()
        host = host_of(address)

        async def answer(handler: Any) -> None:
            async with aclosing(ask(handler)) as tokens:
                async for token in tokens:
                    await self.travel(host, caller)
                    news.put_nowait(token)

        async def read() -> None:
            try:
                await self.call(caller, address, answer, timeout_s=None)
            except ExoLiteError as error:
                news.put_nowait(error)
            else:
                news.put_nowait(None)

        async def watch() -> None:
            await self.until_silent(caller, host, silence_s)
            news.put_nowait(unanswered(NodeLost(f"{address} stopped answering: it hangs, or the network to it is cut")))

        tasks = [asyncio.ensure_future(read()), asyncio.ensure_future(watch())]
        try:
            while (item := await news.get()) is not None:
                if isinstance(item, Exception):
                    raise item
                yield item
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


def host_of(address: str) -> str:
    return split_address(address)[0]


def unanswered(error: NodeLost) -> NodeLost:
    error.is_unanswered = True
    return error


def as_received(error: ExoLiteError) -> ExoLiteError:
    """What of an error goes over the wire."""
    received = error_class(error.code)(str(error))
    received.param, received.retry_after_s = error.param, error.retry_after_s
    if isinstance(received, NodeLost) and isinstance(error, NodeLost):
        received.failed_stages = error.failed_stages
    return received


def _is_cancelled_itself() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
