"""Peers on the local network by multicast DNS (RFC 6762, 6763): service _exo-lite._tcp.local."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import socket
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from zeroconf import (  # type: ignore[attr-defined]  # two public names that its list leaves out
    DNSOutgoing,
    DNSQuestion,
    ServiceStateChange,
    Zeroconf,
)
from zeroconf.asyncio import AsyncServiceBrowser, AsyncServiceInfo, AsyncZeroconf

from exo_lite.domain.addresses import join_address, split_address
from exo_lite.domain.ids import NodeId
from exo_lite.domain.node import NodeIdentity

log = logging.getLogger(__name__)

SERVICE_TYPE = "_exo-lite._tcp.local."
ASK_AGAIN_AFTER_S = (1.0, 2.0, 4.0, 8.0)
ASK_EVERY_S = 10.0
"""The browser asks only in its first seconds, and then for what it knows: a network that was deaf so long stayed so."""
RETRY_AFTER_S = 5.0
MAX_SEEN = 256
MAX_ADDRESSES_CHARS = 240
"""A TXT string holds 255 bytes, with its key."""

_RESOLVE_TIMEOUT_MS = 1_000
_LOOPBACK = "127.0.0.1"
_GROUP, _GROUP6 = "224.0.0.251", "ff02::fb"
_TYPE_PTR, _CLASS_IN, _QUERY = 12, 1, 0


@dataclass(frozen=True, slots=True)
class Sighting:
    """A node of this cluster as it announces itself."""

    node_id: NodeId | None
    name: str | None
    addresses: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Announcement:
    """The announcement of this node: who it is, and the addresses of this machine to announce it on."""

    identity: NodeIdentity
    port: int
    hosts: tuple[str, ...]


class MdnsDiscovery:
    """Announces this node and reports others of its cluster. Never speaks of a peer's death.

    With loopback addresses only, all traffic stays on the loopback interface.
    """

    def __init__(
        self,
        announcement: Announcement,
        *,
        on_seen: Callable[[Sighting], None],
        on_gone: Callable[[NodeId], None],
        on_trouble: Callable[[str], None],
    ) -> None:
        self._announcement = announcement
        self._on_seen = on_seen
        self._on_gone = on_gone
        self._on_trouble = on_trouble
        self._changed = asyncio.Event()
        self._seen: dict[str, Sighting] = {}
        """Sightings by service name: a node that starts again has another name, and the old one expires later."""
        self._tasks: asyncio.TaskGroup
        identity = announcement.identity
        self._own_name = f"{identity.node_id}-{identity.boot_id}.{SERVICE_TYPE}"

    def announce(self, announcement: Announcement) -> None:
        """Announce this from now on, with new sockets where this machine's addresses have changed."""
        if announcement != self._announcement:
            self._announcement = announcement
            self._changed.set()

    async def run(self) -> None:
        """Announce and listen until cancelled, which withdraws the announcement."""
        while True:
            self._changed.clear()
            try:
                await self._serve(self._announcement)
            except OSError as error:
                self._on_trouble(f"no multicast on {', '.join(self._announcement.hosts)}: {error}")
                await self._wait_for_change(RETRY_AFTER_S)

    async def _serve(self, announcement: Announcement) -> None:
        """Serve until the announcement changes. Raises OSError where multicast cannot be used."""
        zeroconf = AsyncZeroconf(interfaces=multicast_interfaces(announcement.hosts))
        try:
            async with asyncio.TaskGroup() as self._tasks:
                await zeroconf.async_register_service(
                    service_info(announcement, self._own_name), cooperating_responders=True
                )
                browser = AsyncServiceBrowser(zeroconf.zeroconf, SERVICE_TYPE, handlers=[self._on_change])
                try:
                    await self._keep_asking(zeroconf.zeroconf)
                finally:
                    await browser.async_cancel()
        finally:
            await zeroconf.async_close()

    async def _keep_asking(self, zeroconf: Zeroconf) -> None:
        pauses_s = iter(ASK_AGAIN_AFTER_S)
        while not await self._wait_for_change(next(pauses_s, ASK_EVERY_S)):
            question = DNSOutgoing(_QUERY)
            question.add_question(DNSQuestion(SERVICE_TYPE, _TYPE_PTR, _CLASS_IN))
            zeroconf.async_send(question)

    async def _wait_for_change(self, timeout_s: float) -> bool:
        try:
            async with asyncio.timeout(timeout_s):
                await self._changed.wait()
        except TimeoutError:
            return False
        return True

    def _on_change(self, zeroconf: Zeroconf, service_type: str, name: str, state_change: ServiceStateChange) -> None:
        if name == self._own_name:
            return
        if state_change is ServiceStateChange.Removed:
            self._lose(name)
            return
        self._tasks.create_task(self._resolve(zeroconf, name))

    async def _resolve(self, zeroconf: Zeroconf, name: str) -> None:
        info = AsyncServiceInfo(SERVICE_TYPE, name)
        try:
            if not await info.async_request(zeroconf, _RESOLVE_TIMEOUT_MS):
                return
            sighting = read_sighting(info, self._announcement.identity.cluster)
        except ValueError as error:
            log.debug("an announcement cannot be read", extra={"cause": str(error)})
            return
        if sighting is not None and (name in self._seen or len(self._seen) < MAX_SEEN):
            self._seen[name] = sighting
            self._on_seen(sighting)

    def _lose(self, name: str) -> None:
        gone = self._seen.pop(name, None)
        if gone is None or gone.node_id is None:
            return
        if all(one.node_id != gone.node_id for one in self._seen.values()):
            self._on_gone(gone.node_id)


def service_info(announcement: Announcement, name: str) -> AsyncServiceInfo:
    identity = announcement.identity
    return AsyncServiceInfo(
        SERVICE_TYPE,
        name,
        port=announcement.port,
        parsed_addresses=[host.partition("%")[0] for host in announcement.hosts],
        server=f"exo-lite-{identity.node_id}.local.",
        properties={
            "id": identity.node_id,
            "name": identity.name[:64],
            "cluster": identity.cluster,
            "version": identity.version,
            "http": identity.http_address.rpartition(":")[2],
            "at": _joined(identity.addresses),
        },
    )


def _joined(addresses: Sequence[str]) -> str:
    """Join as many addresses as fit, the first ones first."""
    text = ""
    for address in addresses:
        longer = f"{text},{address}" if text else address
        if len(longer) > MAX_ADDRESSES_CHARS:
            break
        text = longer
    return text


def read_sighting(info: AsyncServiceInfo, cluster: str) -> Sighting | None:
    """None for what no node of this cluster announces: anybody on the network can send anything."""
    properties = info.decoded_properties
    if properties.get("cluster") != cluster:
        return None
    listed = [address for address in (properties.get("at") or "").split(",") if _is_address(address)]
    found = [join_address(host, info.port) for host in info.parsed_scoped_addresses() if info.port]
    addresses = listed or [address for address in found if _is_address(address)]
    if not addresses:
        return None
    node_id = properties.get("id")
    return Sighting(NodeId(node_id) if node_id else None, properties.get("name"), tuple(addresses))


def _is_address(text: str) -> bool:
    try:
        host, port = split_address(text)
    except ValueError:
        return False
    return bool(host) and 0 < port < 65536


def multicast_interfaces(hosts: Sequence[str]) -> list[str | int | tuple[tuple[str, int, int], int]]:
    """Return this machine's addresses that can join the multicast group. Raises OSError where none can."""
    loopback = all(ipaddress.ip_address(host).is_loopback for host in hosts)
    wanted = [_LOOPBACK] if loopback else list(hosts)
    able, last_error = [], OSError("there is no interface")
    for host in wanted:
        try:
            _try_to_join(host)
        except OSError as error:
            last_error = error
        else:
            able.append(host)
    if not able:
        raise last_error
    return [*able]


def _try_to_join(host: str) -> None:
    """Raises OSError: not every interface has multicast, and one without would spoil it for the others."""
    bare, _, scope = host.partition("%")
    if ":" not in bare:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            member = socket.inet_aton(_GROUP) + socket.inet_aton(bare)
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, member)
        return
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
        index = socket.if_nametoindex(scope) if scope else 0
        member6 = socket.inet_pton(socket.AF_INET6, _GROUP6) + struct.pack("@I", index)
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, member6)
