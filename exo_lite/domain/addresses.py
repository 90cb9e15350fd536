"""HOST:PORT, where HOST may be a name, an IPv4 address or, in brackets, an IPv6 address with or without a scope."""

from __future__ import annotations

import ipaddress


def join_address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def split_address(address: str) -> tuple[str, int]:
    """Raises ValueError for what has no port."""
    host, _, port = address.rpartition(":")
    return host.removeprefix("[").removesuffix("]"), int(port)


def is_loopback(host: str) -> bool:
    ip = as_ip(host)
    return host == "localhost" if ip is None else ip.is_loopback


def as_ip(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """None for a name."""
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None
