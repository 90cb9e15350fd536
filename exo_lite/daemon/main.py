"""The daemon's program, built from its parts: who is new here begins to read in this file, and goes on in `parts`.

One process per machine:

| part | what it does | where |
|---|---|---|
| Cluster | the one cell of state: events go in, everybody reads what comes of them | domain/cluster_*, node/cluster |
| Membership | meets peers (Meetings), keeps them (Heartbeats), says goodbye | node/membership |
| Presence | what this node announces, and whom it sees announced (mDNS) | node/presence, discovery |
| ShardHost | brings this node's workers in line with the placement | node/shards, worker_changes, worker_process |
| OwnStatus, OwnEngine | keep true what this node says of itself; try its engine | node/own_status, own_engine |
| Leader | writes placements, on the node that leads: decisions, room, placing | node/leader |
| Prover, Joiner | join an instance's workers into a ring, and send a token through | node/proving, joining |
| Orders | takes loads and unloads to the leader | node/orders |
| Answers, Attempts, Drivers | carry requests to the first stage, and tokens back | node/answers, attempts, drivers |
| Demand | brings in a model that a request waits for | node/demand, request_counts |
| HttpFace | what HTTP asks: the state, models, orders, answers | node/http_face, api |
| Supervisor | no failure of one task ends another | node/supervisor |

Its threads, and the locks between them:

| thread | runs | locks |
|---|---|---|
| main | the event loop: every part above, gRPC's and HTTP's servers | none: state changes between two awaits |
| asyncio's pool | reads of files and of the machine, the file of pinned models | PinnedModels: one writes at a time |
| text, long-text | tokenizers, and the process that renders chat templates | BoundedTemplate: one prompt at a time |

A shard is computed in a process of its own, which begins in `worker.main`.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager, closing

from exo_lite import __version__
from exo_lite.api.app import create_app
from exo_lite.api.limits import HttpLimits, http_limits
from exo_lite.api.listening import bind_http
from exo_lite.api.server import serve_http
from exo_lite.api.systemd import notify_systemd
from exo_lite.daemon.machine import open_machine
from exo_lite.daemon.parts import Daemon
from exo_lite.domain.errors import ExoLiteError
from exo_lite.domain.logs import set_up_logging
from exo_lite.domain.node import PROTOCOL_VERSION, NodeIdentity
from exo_lite.node.data_folder import DataFolder, new_boot_id
from exo_lite.node.descriptors import raise_descriptor_limit
from exo_lite.node.machine import default_name
from exo_lite.node.network import usable_hosts
from exo_lite.node.node_config import DEFAULT_HTTP, DEFAULT_PORT, NodeConfig
from exo_lite.node.worker_process import KERNEL_CACHE_FALLBACK
from exo_lite.transport.node_server import serve_node


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
        daemon.events.add("started", f"status page and API at http://{address}")
        serving = serve_http(app, sock, daemon.supervisor, max_connections=limits.connections)
        await _serve_until(stopped, daemon, serving)


@asynccontextmanager
async def start_daemon(config: NodeConfig, folder: DataFolder, http_address: str) -> AsyncIterator[Daemon]:
    """A daemon that answers its peers. Leaving says goodbye. Raises StartupError."""
    machine, server = await open_machine(config)
    identity = NodeIdentity(
        node_id=folder.node_id(),
        boot_id=new_boot_id(),
        name=config.name or default_name(),
        cluster=config.cluster,
        version=__version__,
        protocol_version=PROTOCOL_VERSION,
        addresses=machine.binding.addresses(machine.port, await asyncio.to_thread(usable_hosts)),
        http_address=http_address,
    )
    daemon = Daemon(config, identity, machine)
    serve_node(server, daemon.handlers)
    await server.start()
    if config.port is None and machine.port != DEFAULT_PORT:
        text = f"port {DEFAULT_PORT} is in use: gRPC listens on {identity.address} instead"
        daemon.events.add("port_moved", text)
    try:
        async with asyncio.TaskGroup() as tasks:  # a daemon that fails in one part ends as a whole
            running = tasks.create_task(daemon.run())
            yield daemon
            await daemon.membership.leave()
            running.cancel()
    finally:
        await server.stop(grace=1.0)


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
        daemon.events.add("port_moved", f"port {default} is in use: HTTP listens on {address} instead")


def _cause(group: ExceptionGroup[Exception]) -> Exception:
    """The first of a group's errors that says what to do, or the group itself."""
    planned = group.subgroup(ExoLiteError)
    if planned is None:
        return group
    first = planned.exceptions[0]
    return _cause(first) if isinstance(first, ExceptionGroup) else first
