"""Checks of an address: does something listen, and if not, why; a gRPC status does not tell."""

from __future__ import annotations

import asyncio
import errno
import socket

from exo_lite.domain.addresses import split_address
from exo_lite.domain.errors import ConnectionRefused, NodeLost, NoRoute, PortSilent

_NO_ROUTE = (errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EHOSTDOWN, errno.ENETDOWN, errno.EINVAL, errno.EADDRNOTAVAIL)


async def check_port(address: str, *, timeout_s: float) -> None:
    """Connect by TCP and hang up.

    Raises ConnectionRefused where nothing listens, PortSilent where nothing answers, NoRoute where no way leads there,
    NodeLost for anything else.
    """
    try:
        host, port = split_address(address)
    except ValueError:
        raise NodeLost(f"{address!r} is not HOST:PORT") from None
    try:
        async with asyncio.timeout(timeout_s):
            _, writer = await asyncio.open_connection(host, port)
    except TimeoutError:
        raise PortSilent(f"TCP port {port} of {host} does not answer: timed out after {timeout_s:g} s") from None
    except socket.gaierror as error:
        raise NoRoute(f"no machine is called {host} here: {error.strerror}") from None
    except ConnectionRefusedError:
        raise ConnectionRefused(f"{address} refuses connections: nothing listens there") from None
    except OSError as error:
        kind = NoRoute if error.errno in _NO_ROUTE else NodeLost
        raise kind(f"{address} cannot be reached: {error.strerror or error}") from None
    writer.transport.abort()
