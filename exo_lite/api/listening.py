"""The daemon's HTTP port."""

from __future__ import annotations

import socket

from exo_lite.domain.addresses import is_loopback
from exo_lite.domain.errors import PortInUse, StartupError
from exo_lite.node.node_config import DEFAULT_HTTP, NUM_PORTS_TO_TRY


def bind_http(address: tuple[str, int] | None, api_key: str | None) -> socket.socket:
    """A listening socket; without an address, at the first free port from the default one.

    Raises PortInUse, or StartupError for an address that would let strangers in.
    """
    host, port = address or DEFAULT_HTTP
    if not is_loopback(host) and not api_key:
        raise StartupError(
            f"--http {host}:{port} can be reached from other machines: set an API key (--api-key or EXO_LITE_API_KEY), "
            f"or bind 127.0.0.1"
        )
    num_ports = NUM_PORTS_TO_TRY if address is None else 1
    for candidate in range(port, port + num_ports):
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        # TCP by name: asyncio then lets its connections send at once; else the end of a refusal or a token waits for
        # the client to acknowledge what came before, 40 ms at most clients
        sock = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind((host, candidate))
            sock.listen()  # only now is the port taken; who connects before all is up waits
        except OSError:
            sock.close()
            continue
        return sock
    last = f" to {port + num_ports - 1}" if num_ports > 1 else ""
    raise PortInUse(
        f"HTTP port {port}{last} of {host} is in use: choose another with --http HOST:PORT, 0 for a free one"
    )
