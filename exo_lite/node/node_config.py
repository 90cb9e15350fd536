"""The configuration of a daemon."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from exo_lite.domain.keep_alive import DEFAULT_KEEP_ALIVE_S
from exo_lite.domain.logs import LogFormat
from exo_lite.domain.worker import DEFAULT_HANG_TIMEOUT_S

DEFAULT_PORT = 52414
NUM_PORTS_TO_TRY = 20
DEFAULT_HTTP = ("127.0.0.1", 52415)
DEFAULT_WORKER_PORTS = (52416, 52479)
ANY_PORTS = (0, 0)


@dataclass(frozen=True, slots=True)
class NodeConfig:
    """None stands for a default that the daemon finds out: a name, an interface, a port that may move, free memory."""

    name: str | None
    cluster: str
    host: str | None
    port: int | None
    http: tuple[str, int] | None
    peers: tuple[str, ...]
    mdns: bool
    memory_bytes: int | None
    threads: int | None
    device: str
    data_dir: Path
    models_dir: Path
    log_format: LogFormat
    api_key: str | None
    keep_alive_s: float = DEFAULT_KEEP_ALIVE_S
    """The idle time after which models that requests loaded are evicted."""
    cores_may_sleep: bool = False
    """Let cores sleep while answers are under way, too."""
    allowed_hosts: tuple[str, ...] = ()
    """Other names that HTTP clients without a key may call this machine by; `*`: any."""
    advertise: tuple[str, ...] = ()
    """HOST or HOST:PORT each, to announce in place of the addresses of this machine."""
    worker_ports: tuple[int, int] = DEFAULT_WORKER_PORTS
    """First and last port that workers may bind; ANY_PORTS for any free ones."""
    hang_timeout_s: float = DEFAULT_HANG_TIMEOUT_S
    """How long a worker may be silent before it is taken for hung."""
