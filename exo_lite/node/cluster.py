"""The one mutable cell of a daemon: its ClusterState, and whoever waits for it to change."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import TypeVar

from exo_lite.domain.cluster_events import Event, apply
from exo_lite.domain.cluster_state import ClusterState

Found = TypeVar("Found")
Listener = Callable[[ClusterState, ClusterState], None]


class Cluster:
    """Applies events on the event loop's thread. Listeners are called at once, with the state before and after."""

    def __init__(self, state: ClusterState) -> None:
        self.state = state
        self._listeners: list[Listener] = []
        self._next_change = asyncio.Event()

    def states(self, *, at_least_every_s: float | None = None) -> AsyncIterator[ClusterState]:
        """Iterate without end over the state as it is now and after each change; changes while one is busy are one.

        With `at_least_every_s`, the state comes again after so many seconds without a change.
        """
        return _States(self, at_least_every_s)

    async def wait_for(self, find: Callable[[ClusterState], Found | None]) -> Found:
        """Return what `find` returns for the first state, from now on, for which that is not None."""
        async for state in self.states():
            if (found := find(state)) is not None:
                return found
        raise AssertionError("the states have no end")

    @property
    def next_change(self) -> asyncio.Event:
        """Set at the next change."""
        return self._next_change

    def listen(self, listener: Listener) -> None:
        self._listeners.append(listener)

    def apply(self, event: Event) -> None:
        before, self.state = self.state, apply(self.state, event)
        if self.state is before:
            return
        self._next_change.set()
        self._next_change = asyncio.Event()
        for listener in self._listeners:
            listener(before, self.state)


class _States:
    """Takes the event of the next change with each state that it returns, so that it misses none."""

    def __init__(self, cluster: Cluster, at_least_every_s: float | None) -> None:
        self._cluster = cluster
        self._at_least_every_s = at_least_every_s
        self._next_change: asyncio.Event | None = None

    def __aiter__(self) -> _States:
        return self

    async def __anext__(self) -> ClusterState:
        if self._next_change is not None:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._at_least_every_s):
                    await self._next_change.wait()
        self._next_change = self._cluster.next_change
        return self._cluster.state
