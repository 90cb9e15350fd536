"""The `node` verb's program: a daemon with its HTTP side, until it is told to stop."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import Coroutine
from contextlib import closing

from exo_lite.api.app import create_app
from exo_lite.api.limits import HttpLimits, http_limits
from exo_lite.api.listening import bind_http
from exo_lite.api.server import serve_http
from exo_lite.api.systemd import notify_systemd
from exo_lite.domain.errors import ExoLiteError
from exo_lite.domain.logs import set_up_logging
from exo_lite.node.config import DEFAULT_HTTP, NodeConfig
from exo_lite.node.daemon import Daemon, start_daemon
from exo_lite.node.data_folder import DataFolder
from exo_lite.node.descriptors import raise_descriptor_limit
from exo_lite.node.machine import default_name
from exo_lite.node.worker_process import KERNEL_CACHE_FALLBACK


def run_daemon(config: NodeConfig) -> int:
    """Run until SIGTERM or SIGINT, drain, and return 0. Raises StartupError."""
    set_up_logging(config.log_format, source=config.name or default_name())
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # texts come one by one, and workers start as new programs
    os.environ.setdefault(KERNEL_CACHE_FALLBACK, str(config.data_dir.absolute() / "kernels"))
    limits = http_limits(raise_descriptor_limit())
    with closing(DataFolder(config.data_dir)) as folder, closing(bind_http(config.http, config.api_key)) as sock:
        try:
            asyncio.run(_run(config, folder, sock, limits))
        except ExceptionGroup as group:
            raise _cause(group) from group
    return 0


def _cause(group: ExceptionGroup[Exception]) -> Exception:
    """The first of a group's errors that says what to do, or the group itself."""
    planned = group.subgroup(ExoLiteError)
    if planned is None:
        return group
    first = planned.exceptions[0]
    return _cause(first) if isinstance(first, ExceptionGroup) else first


async def _run(config: NodeConfig, folder: DataFolder, sock: socket.socket, limits: HttpLimits) -> None:
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    host, port = sock.getsockname()[:2]
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    async with start_daemon(config, folder, address) as daemon:
        asyncio.get_running_loop().set_exception_handler(daemon.supervisor.on_loop_error)
        names = [address.rpartition(":")[0], "localhost", socket.gethostname(), *config.allowed_hosts]
        app = create_app(daemon.service, api_key=config.api_key, allowed_hosts=names, limits=limits)
        _note_moved_port(daemon, config, address)
        folder.publish_http_address(address)
        notify_systemd("READY=1")
        daemon.note("started", f"status page and API at http://{address}")
        serving = serve_http(app, sock, daemon.supervisor, max_connections=limits.connections)
        await _serve_until(stopped, daemon, serving)


async def _serve_until(stopped: asyncio.Event, daemon: Daemon, serve: Coroutine[object, object, None]) -> None:
    serving = asyncio.create_task(serve)
    stop = asyncio.create_task(stopped.wait())
    try:
        await asyncio.wait({serving, stop}, return_when=asyncio.FIRST_COMPLETED)
        if serving.done():
            serving.result()  # raises what ended it
    finally:
        notify_systemd("STOPPING=1")
        daemon.service.drain()
        serving.cancel()
        stop.cancel()
        await asyncio.wait({serving})


def _note_moved_port(daemon: Daemon, config: NodeConfig, address: str) -> None:
    default = DEFAULT_HTTP[1]
    if config.http is None and not address.endswith(f":{default}"):
        daemon.note("port_moved", f"port {default} is in use: HTTP listens on {address} instead")
