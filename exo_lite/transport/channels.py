"""Channels and servers with the options of a small cluster: gRPC's defaults notice a dead peer after minutes."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import grpc
from grpc.experimental import ChannelOptions

from exo_lite.domain.addresses import join_address
from exo_lite.domain.credentials import Credentials
from exo_lite.domain.errors import PortInUse
from exo_lite.domain.worker import DEFAULT_HANG_TIMEOUT_S

CONTROL_MESSAGE_BYTES = 4 * 1024 * 1024
MAX_CONNECTIONS = 1024
"""The connections that a server takes; each costs a file descriptor."""
STEP_OVERHEAD_BYTES = 64 * 1024
"""Bytes beside a step's tensor: chunks, token ids, timings."""

_NEVER_MS = 2**31 - 1  # what gRPC takes for no limit

_OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.http2.min_ping_interval_without_data_ms", 100),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 100),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 2_000),  # how long an attempt may take: busy peers answer late, dead ones refuse
    ("grpc.max_reconnect_backoff_ms", 1_000),
    ("grpc.client_idle_timeout_ms", _NEVER_MS),
    ("grpc.use_local_subchannel_pool", 1),  # a lost peer's back-off must not delay another channel to it
    ("grpc.enable_http_proxy", 0),
    ("grpc.so_reuseport", 0),
    ("grpc.max_concurrent_streams", 1_024),
)


def open_channel(
    address: str,
    credentials: Credentials,
    *,
    max_message_bytes: int = CONTROL_MESSAGE_BYTES,
    silence_s: float = DEFAULT_HANG_TIMEOUT_S,
) -> grpc.aio.Channel:
    """Open a channel that breaks once the other process has been silent for `silence_s`."""
    return grpc.aio.insecure_channel(address, options=[*_options(max_message_bytes), *_keepalive(silence_s)])


def open_stream_channel(address: str, credentials: Credentials, *, max_message_bytes: int) -> grpc.Channel:
    """Open a channel for one stream whose reader is the only thread between it and the connection.

    While that thread computes, nobody answers pings nor reads answers to them: such a connection is never taken for
    lost because of silence. `pulse` watches the process instead.
    """
    options = [*_options(max_message_bytes), *_NO_KEEPALIVE, (ChannelOptions.SingleThreadedUnaryStream, 1)]
    return grpc.insecure_channel(address, options=options)


def create_server(
    *,
    max_message_bytes: int = CONTROL_MESSAGE_BYTES,
    silence_s: float = DEFAULT_HANG_TIMEOUT_S,
    max_connections: int = MAX_CONNECTIONS,
) -> grpc.aio.Server:
    """Create a server that closes connections beyond `max_connections` at once."""
    options = [*_options(max_message_bytes), *_keepalive(silence_s)]
    return grpc.aio.server(options=[*options, ("grpc.max_allowed_incoming_connections", max_connections)])


def create_blocking_server(threads: ThreadPoolExecutor, *, max_message_bytes: int, max_calls: int) -> grpc.Server:
    """Create the server behind `open_stream_channel`: it answers pings, but expects none to be answered."""
    options = [*_options(max_message_bytes), *_NO_KEEPALIVE]
    return grpc.server(threads, options=options, maximum_concurrent_rpcs=max_calls)


def bind(server: grpc.aio.Server | grpc.Server, host: str, port: int, credentials: Credentials) -> int:
    """Take the port, 0 for a free one, and return it. Raises PortInUse."""
    try:
        return server.add_insecure_port(join_address(host, port))
    except RuntimeError as error:
        address = join_address(host, port)
        raise PortInUse(
            f"{address} cannot be bound: another program has it, or {host} is not this machine's"
        ) from error


def bind_within(
    server: grpc.aio.Server | grpc.Server, host: str, first_port: int, last_port: int, credentials: Credentials
) -> int:
    """Take the first free port of a range, 0 to 0 for any, and return it. Raises PortInUse."""
    for port in range(first_port, last_port + 1):
        try:
            return bind(server, host, port, credentials)
        except PortInUse:
            continue
    raise PortInUse(f"ports {first_port} to {last_port} of {host} are in use")


def _options(max_message_bytes: int) -> list[tuple[str, int]]:
    limits = [
        ("grpc.max_send_message_length", max_message_bytes),
        ("grpc.max_receive_message_length", max_message_bytes),
    ]
    return [*_OPTIONS, *limits]


def _keepalive(silence_s: float) -> list[tuple[str, int]]:
    """Ping often and wait long for the answer: a pause that is hardly shorter than the silence breaks nothing."""
    ping_every_ms = round(silence_s * 1000 / 8)
    answered_within_ms = round(silence_s * 1000) - ping_every_ms
    return [
        ("grpc.keepalive_time_ms", ping_every_ms),
        ("grpc.keepalive_timeout_ms", answered_within_ms),
        ("grpc.http2.ping_timeout_ms", answered_within_ms),
    ]


_NO_KEEPALIVE = [
    ("grpc.keepalive_time_ms", _NEVER_MS),
    ("grpc.keepalive_timeout_ms", _NEVER_MS),
    ("grpc.http2.ping_timeout_ms", _NEVER_MS),  # gRPC also pings to measure bandwidth
]
