"""A node's own addresses, as they come, go and change."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from exo_lite.node import presence as presence_module
from exo_lite.node.cluster import Cluster
from exo_lite.node.event_log import EventLog
from exo_lite.node.membership import Membership
from exo_lite.node.network import Binding
from exo_lite.node.presence import Presence
from exo_lite.node.supervisor import Supervisor
from tests.loopback import CLOCK, PEERS
from tests.unit.node.cluster_states import cluster, node
from tests.waiting import until

FIRST = "10.0.0.97:52414"
"""Of node a."""


class Machine:
    """Whose interfaces have `hosts` now."""

    def __init__(self, binding: Binding, hosts: tuple[str, ...]) -> None:
        self.hosts = hosts
        self.cluster = Cluster(cluster(node("a")))
        self.events = EventLog(CLOCK)
        membership = Membership(self.cluster, self.events, PEERS, CLOCK, Supervisor(CLOCK))
        self.presence = Presence(
            binding,
            52414,
            membership,
            self.events,
            identity=lambda: self.cluster.state.self_status.identity,
            hosts=lambda: self.hosts,
        )

    @property
    def addresses(self) -> tuple[str, ...]:
        return self.cluster.state.self_status.identity.addresses

    async def announces(self, *addresses: str) -> None:
        await until(lambda: self.addresses == addresses, f"{addresses} are announced")


@asynccontextmanager
async def watched(machine: Machine) -> AsyncIterator[Machine]:
    task = asyncio.create_task(machine.presence.watch())
    try:
        yield machine
    finally:
        task.cancel()
        await asyncio.wait({task})


@pytest.fixture(autouse=True)
def without_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presence_module, "WATCH_EVERY_S", 0.0)


async def test_addresses_that_change_are_announced_and_told_of_once():
    async with watched(Machine(Binding("::"), ("10.0.0.97",))) as machine:
        sequence = machine.cluster.state.self_status.sequence
        machine.hosts = ("10.0.0.5", "2001:db8::5")
        await machine.announces("10.0.0.5:52414", "[2001:db8::5]:52414")
        assert machine.cluster.state.self_status.sequence > sequence  # members take it for news
        machine.hosts = ()
        await machine.announces("127.0.0.1:52414")
        machine.hosts = ("10.0.0.97",)
        await machine.announces(FIRST)
    assert [event.kind for event in machine.events] == ["addresses_changed"] * 3


async def test_advertised_addresses_stay_whatever_the_interfaces_have():
    async with watched(Machine(Binding("::", ("10.0.0.97",)), ("192.168.1.2",))) as machine:
        machine.hosts = ("192.168.1.3",)
        for _ in range(20):
            await asyncio.sleep(0)
        assert machine.addresses == (FIRST,)


async def test_a_node_that_is_bound_to_one_address_does_not_watch():
    machine = Machine(Binding("10.0.0.97"), ("192.168.1.2",))
    await asyncio.wait_for(machine.presence.watch(), 5)
    assert machine.addresses == (FIRST,)
