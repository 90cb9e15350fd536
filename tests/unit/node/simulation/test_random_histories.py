"""Histories that nobody thought of: what happens to a home is drawn from a seed, and the promises hold at its end."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine

import pytest

from exo_lite.domain.errors import ExoLiteError
from tests.unit.node.simulation.conftest import MODELS, ROOM_FOR_THREE_LAYERS, MakeHome
from tests.unit.node.simulation.home import Home, history_of
from tests.unit.node.simulation.virtual_time import in_virtual_time

NAMES = "abcd"
NUM_HISTORIES = 20
NUM_LONG_HISTORIES = 500
NUM_TURNS = 12
ROOM_BYTES = 2 * ROOM_FOR_THREE_LAYERS
"""The memory of each node. Both models fit on any two."""
CALM_S = 90.0
"""The wait after everything is mended: the longest pause is that of a refused handshake."""


class Chance:
    """Draws what happens next in a home."""

    def __init__(self, home: Home, seed: int) -> None:
        self._home = home
        self._random = random.Random(seed)
        self._orders: list[asyncio.Task[None]] = []

    async def turn(self) -> None:
        """Something happens, and some time passes."""
        turns: list[tuple[int, Callable[[], object]]] = [
            (3, self._load),
            (1, self._unload),
            (6, self._ask),
            (3, self._start),
            (2, self._kill),
            (1, self._leave),
            (1, self._unplug),
            (2, self._cut),
            (1, self._part),
            (3, self._home.network.mend),
            (1, self._slow_down),
        ]
        weights, actions = zip(*turns, strict=True)
        outcome = self._random.choices(actions, weights)[0]()
        if asyncio.iscoroutine(outcome):
            await outcome
        await asyncio.sleep(self._random.choice((0.01, 0.1, 0.5, 2.0, 6.0)))

    async def end(self) -> None:
        """Everything works again, and every node is there."""
        self._home.network.mend()
        self._home.network.loss, self._home.network.delay_s = 0.0, 0.001
        for name in sorted(set(NAMES) - set(self._home.nodes)):
            self.start(name)
        await asyncio.gather(*self._orders)

    def start(self, name: str) -> None:
        self._home.start(name, *(other for other in NAMES if other != name))

    def _node(self) -> str | None:
        return self._random.choice(sorted(self._home.nodes)) if self._home.nodes else None

    def _start(self) -> None:
        gone = sorted(set(NAMES) - set(self._home.nodes))
        if gone:
            self.start(self._random.choice(gone))

    async def _kill(self) -> None:
        if name := self._node():
            await self._home.kill(name)

    async def _leave(self) -> None:
        if name := self._node():
            await self._home.leave(name)

    def _unplug(self) -> None:
        if name := self._node():
            self._home.unplug(name)

    def _cut(self) -> None:
        one, other = self._random.sample(NAMES, 2)
        self._home.cut(one, other)

    def _part(self) -> None:
        ones = self._random.sample(NAMES, 2)
        self._home.part(ones, [name for name in NAMES if name not in ones])

    def _slow_down(self) -> None:
        self._home.network.delay_s = self._random.choice((0.001, 0.02, 0.1))
        self._home.network.loss = self._random.choice((0.0, 0.05, 0.2))

    def _ask(self) -> None:
        if name := self._node():
            self._home.ask(self._random.choice(MODELS), at=name, num_tokens=self._random.choice((1, 5, 200)))

    def _load(self) -> None:
        if name := self._node():
            order = self._home.load(self._random.choice(MODELS), at=name)
            self._orders.append(asyncio.ensure_future(_carried_out(order)))

    def _unload(self) -> None:
        if name := self._node():
            order = self._home.unload(self._random.choice(MODELS), at=name)
            self._orders.append(asyncio.ensure_future(_carried_out(order)))


async def _carried_out(order: Coroutine[object, object, None]) -> None:
    """Or refused: the model may not fit just now, or the leader be gone."""
    try:
        await order
    except ExoLiteError:
        return


async def live_through(home: Home, seed: int) -> str:
    """What became of it, in words that are the same for each run of a seed."""
    async with history_of(home):
        chance = Chance(home, seed)
        for name in NAMES:
            chance.start(name)
        for _ in range(NUM_TURNS):
            await chance.turn()
        await chance.end()
        await home.until_met(within_s=CALM_S)
        await home.until(home.is_calm, "all is calm", within_s=CALM_S)
        for name in NAMES:
            for model in MODELS:
                if home[name].is_ready(model):
                    await home.answer(model, at=name)
        return home.report()


@pytest.mark.parametrize("seed", range(NUM_HISTORIES))
def test_whatever_happens_the_promises_hold(home_of: MakeHome, seed: int) -> None:
    in_virtual_time(live_through(home_of(seed=seed, memory_bytes=ROOM_BYTES), seed))


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_whatever_happens_the_promises_hold_for_long(home_of: MakeHome) -> None:
    for seed in range(NUM_HISTORIES, NUM_LONG_HISTORIES):
        in_virtual_time(live_through(home_of(seed=seed, folder=str(seed), memory_bytes=ROOM_BYTES), seed))


def test_a_history_is_the_same_each_time(home_of: MakeHome) -> None:
    first, second = (
        in_virtual_time(live_through(home_of(seed=7, folder=name, memory_bytes=ROOM_BYTES), 7))
        for name in ("one", "two")
    )
    assert first == second
