"""The addresses on which a node listens, and those at which others may reach it."""

from __future__ import annotations

import errno
import ipaddress
import re
import socket
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import psutil

from exo_lite.domain.addresses import as_ip, is_loopback, join_address, split_address
from exo_lite.domain.errors import StartupError

LOOPBACK = "127.0.0.1"
ALL_IPV4, ALL = "0.0.0.0", "::"

_VIRTUAL_INTERFACE = re.compile(
    r"(lo$|lo[0-9:]|docker|br-|veth|virbr|cni|flannel|cali|podman|lxc|lxd|vmnet|vboxnet|awdl|llw|bridge100)"
)
_OVERLAY_INTERFACE = re.compile(r"(tailscale|wg|zt|tun|tap|nebula|netbird|wt[0-9]|utun)")
_OVERLAY_NETWORK = ipaddress.ip_network("100.64.0.0/10")
"""Shared address space (RFC 6598), which overlays number their members from."""

MAX_HOSTS = 8
"""The number of addresses that a node announces."""

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
Resolve = Callable[[str], Sequence[str]]


@dataclass(frozen=True, slots=True)
class Binding:
    """The address that a node's servers bind, and those that it announces."""

    host: str
    """One address of this machine, or `::` or `0.0.0.0` for all."""
    advertised: tuple[str, ...] = ()
    """HOST or HOST:PORT each, in place of the addresses of this machine."""

    @property
    def own_host(self) -> str:
        """The address at which this machine reaches its own servers."""
        return LOOPBACK if self.is_all else self.host

    @property
    def is_all(self) -> bool:
        return self.host in (ALL, ALL_IPV4)

    @property
    def is_loopback(self) -> bool:
        return is_loopback(self.host)

    def addresses(self, port: int, hosts: Sequence[str]) -> tuple[str, ...]:
        """HOST:PORT of each address to announce, where `hosts` are those of this machine's interfaces."""
        if self.advertised:
            return tuple(one if _has_port(one) else join_address(_bare(one), port) for one in self.advertised)
        return tuple(join_address(host, port) for host in self.hosts(hosts))

    def hosts(self, hosts: Sequence[str]) -> tuple[str, ...]:
        """The addresses to be found at on the network; loopback while there is no other."""
        if not self.is_all:
            return (self.host,)
        fitting = [host for host in hosts if self.host == ALL or ":" not in host]
        return tuple(fitting) or (LOOPBACK,)


def find_binding(host: str | None, advertised: Sequence[str], resolve: Resolve | None = None) -> Binding:
    """Read `--host` and `--advertise`. Raises StartupError for a host that is no address of any kind."""
    if host is None:
        return Binding(ALL, tuple(advertised))
    bare = _bare(host)
    if bare == "localhost":
        return Binding(LOOPBACK, tuple(advertised))
    if as_ip(bare) is not None:
        return Binding(bare, tuple(advertised))
    try:
        found = (resolve or _resolve)(bare)
    except OSError as error:
        raise StartupError(
            f"--host {host}: no such name ({error.strerror or error}); give an address of this machine"
        ) from error
    if is_loopback(found[0]) and not bare.endswith("localhost"):
        raise StartupError(f"--host {host} is {found[0]} here, where no other machine reaches it; give an address")
    return Binding(found[0], tuple(advertised))


def _resolve(name: str) -> list[str]:
    """IPv4 first. Raises OSError."""
    found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    return sorted((str(one[4][0]) for one in found), key=lambda host: ":" in host)


def _bare(host: str) -> str:
    return host.removeprefix("[").removesuffix("]")


def _has_port(text: str) -> bool:
    """`HOST:PORT` and not `HOST`, which may be an IPv6 address without brackets."""
    host, colon, port = text.rpartition(":")
    return bool(colon) and port.isdigit() and (":" not in host or host.endswith("]"))


@dataclass(frozen=True, slots=True)
class InterfaceAddress:
    interface: str
    host: str
    """The address to bind, with its scope if it is a link-local IPv6 address."""

    @property
    def ip(self) -> IpAddress:
        return ipaddress.ip_address(self.host)

    @property
    def is_overlay(self) -> bool:
        return bool(_OVERLAY_INTERFACE.match(self.interface)) or (self.ip.version == 4 and self.ip in _OVERLAY_NETWORK)

    @property
    def is_of_one_link(self) -> bool:
        return self.ip.is_link_local


def usable_hosts() -> tuple[str, ...]:
    """This machine's addresses that others may reach, the likeliest first: cards, then overlays; IPv4, then IPv6.

    Those of containers' bridges are no use to anybody else. An address of one link is there only where its interface
    has no other.
    """
    found = [one for one in _interface_addresses() if _can_be_bound(one.host)]
    lasting = {one.interface for one in found if not one.is_of_one_link}
    usable = [one for one in found if not one.is_of_one_link or not (one.is_overlay or one.interface in lasting)]
    return tuple(one.host for one in sorted(usable, key=_rank))[:MAX_HOSTS]


def _can_be_bound(host: str) -> bool:
    """Say whether an address can be bound: IPv6 asks for a second whether another machine has it (RFC 4862, 5.4)."""
    try:
        [(family, kind, protocol, _, address), *_] = socket.getaddrinfo(
            host, 0, type=socket.SOCK_DGRAM, flags=socket.AI_NUMERICHOST
        )
        with socket.socket(family, kind, protocol) as one:
            one.bind(address)
    except OSError as error:
        return error.errno != errno.EADDRNOTAVAIL
    return True


def _rank(one: InterfaceAddress) -> tuple[bool, bool, bool]:
    return one.is_overlay, one.is_of_one_link, one.ip.version == 6


def _interface_addresses() -> Iterator[InterfaceAddress]:
    stats = psutil.net_if_stats()
    for name, addresses in psutil.net_if_addrs().items():
        if _VIRTUAL_INTERFACE.match(name) or name not in stats or not stats[name].isup:
            continue
        for address in addresses:
            if address.family not in (socket.AF_INET, socket.AF_INET6):
                continue
            ip = as_ip(address.address)
            if ip is None or ip.is_loopback or ip.is_unspecified:
                continue
            is_bare = ip.version == 6 and ip.is_link_local and "%" not in address.address
            yield InterfaceAddress(name, f"{address.address}%{name}" if is_bare else address.address)


def reachable_forms(addresses: Sequence[str], seen_from: str | None = None) -> tuple[str, ...]:
    """A peer's announced addresses as this machine can dial them; `seen_from` is the host that the peer calls from.

    The scope of an IPv6 address of one link means something on its own machine only: here it is any interface's. Where
    the peer calls from is one more address of it, which nobody had to configure.
    """
    forms: dict[str, None] = {}
    for address in addresses:
        for form in _forms(address):
            forms[form] = None
    if seen_from is not None and addresses:
        forms[join_address(seen_from, split_address(addresses[0])[1])] = None
    return tuple(forms)


def _forms(address: str) -> list[str]:
    try:
        host, port = split_address(address)
    except ValueError:
        return []  # anybody can announce anything
    ip = as_ip(host)
    if not isinstance(ip, ipaddress.IPv6Address) or not ip.is_link_local:
        return [address]
    bare = host.partition("%")[0]
    return [join_address(f"{bare}%{one.interface}", port) for one in _link_local()]


def _link_local() -> list[InterfaceAddress]:
    return [one for one in _interface_addresses() if one.ip.version == 6 and one.is_of_one_link]
