"""A node's announcement, kept true while its interfaces and addresses change."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from exo_lite.discovery.mdns import Announcement, MdnsDiscovery, Sighting
from exo_lite.domain.ids import NodeId
from exo_lite.domain.node import NodeIdentity
from exo_lite.node.event_log import EventLog
from exo_lite.node.membership import Membership
from exo_lite.node.network import Binding, usable_hosts

WATCH_EVERY_S = 0.5


class Presence:
    """Two tasks: `watch` looks at this machine's addresses, `announce` speaks mDNS on them."""

    def __init__(
        self,
        binding: Binding,
        port: int,
        membership: Membership,
        events: EventLog,
        *,
        identity: Callable[[], NodeIdentity],
        hosts: Callable[[], tuple[str, ...]] = usable_hosts,
    ) -> None:
        self._binding = binding
        self._port = port
        self._membership = membership
        self._events = events
        self._identity = identity
        self._look = hosts
        self._hosts: tuple[str, ...] | None = None
        self._discovery: MdnsDiscovery | None = None
        self._trouble: str | None = None

    async def watch(self) -> None:
        """Run until cancelled."""
        if not self._binding.is_all:
            return
        while True:
            await self._look_again()
            await asyncio.sleep(WATCH_EVERY_S)

    async def _look_again(self) -> None:
        hosts = await asyncio.to_thread(self._look)
        if hosts == self._hosts:
            return
        is_first, self._hosts = self._hosts is None, hosts
        addresses = self._binding.addresses(self._port, hosts)
        if addresses != self._identity().addresses:
            self._membership.on_network_change(addresses)
            self._events.add("addresses_changed", f"this node is reached at {', '.join(addresses)} now")
        elif not is_first:
            self._membership.on_network_change(addresses)  # behind the advertised ones the way is another
        if self._discovery is not None:
            self._discovery.announce(self._announcement())

    async def announce(self) -> None:
        """Announce until cancelled, then withdraw the announcement."""
        if self._hosts is None:
            self._hosts = await asyncio.to_thread(self._look)
        self._discovery = MdnsDiscovery(
            self._announcement(), on_seen=self._on_seen, on_gone=self._on_gone, on_trouble=self._on_trouble
        )
        try:
            await self._discovery.run()
        finally:
            self._discovery = None

    def _announcement(self) -> Announcement:
        return Announcement(self._identity(), self._port, self._binding.hosts(self._hosts or ()))

    def _on_seen(self, sighting: Sighting) -> None:
        self._membership.meetings.see(sighting.node_id, sighting.name, sighting.addresses)

    def _on_gone(self, node_id: NodeId) -> None:
        self._membership.meetings.lose_sight(node_id)

    def _on_trouble(self, text: str) -> None:
        if text != self._trouble:
            self._trouble = text
            self._events.add("mdns_off", text, "name the others with --peer HOST:PORT")
