"""How much HTTP may take of a daemon: what is left of its descriptors once peers, workers and files have theirs."""

from __future__ import annotations

from dataclasses import dataclass

RESERVED_DESCRIPTORS = 96
"""Descriptors for peers (two connections each), workers (three pipes, one connection each), files, logs and timers."""
MIN_CONNECTIONS = 8
MAX_CONNECTIONS = 1024
MAX_REQUESTS = MAX_CONNECTIONS * 3 // 4
MAX_EVENT_STREAMS = 64
"""Each gets what changes of the state up to four times a second."""


@dataclass(frozen=True, slots=True)
class HttpLimits:
    """Limits on what is open at once: connections, requests on them, and event streams among those."""

    connections: int = MAX_CONNECTIONS
    requests: int = MAX_REQUESTS
    event_streams: int = MAX_EVENT_STREAMS


def http_limits(num_descriptors: int) -> HttpLimits:
    """The limits of a process that may have `num_descriptors` open.

    A quarter of the connections is never a request that waits, so that health checks always get through; streams of
    events, which last, take half of the others at most.
    """
    connections = max(MIN_CONNECTIONS, min(MAX_CONNECTIONS, num_descriptors - RESERVED_DESCRIPTORS))
    requests = connections * 3 // 4
    return HttpLimits(connections, requests, min(MAX_EVENT_STREAMS, requests // 2))
