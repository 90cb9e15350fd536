"""`node`: the daemon in the foreground."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal

import click

from exo_lite.cli.config_file import Verb
from exo_lite.cli.load_flags import keep_alive_option
from exo_lite.cli.options import (
    Folders,
    address,
    addresses,
    api_key_option,
    folder_options,
    hang_timeout,
    host_names,
    size,
    split_list,
)
from exo_lite.domain.addresses import as_ip

_DEVICE = re.compile(r"auto|cpu|mps|cuda:[0-9]{1,3}")


def _device(_: click.Context, param: click.Parameter, value: str) -> str:
    if not _DEVICE.fullmatch(value):
        raise click.BadParameter(f"{value!r} is not auto, cpu, cuda:N or mps", param=param)
    return value


def _port_range(_: click.Context, param: click.Parameter, value: str) -> tuple[int, int]:
    """Callback: (first, last) of `FIRST-LAST`, both ends inclusive."""
    first, dash, last = value.partition("-")
    ends = [int(end) for end in (first, last if dash else first) if end.isascii() and end.isdigit()]
    if value == "0":
        return 0, 0
    if len(ends) != 2 or not 1 <= ends[0] < ends[1] <= 65535:
        raise click.BadParameter(f"{value!r} is neither FIRST-LAST with two ports at least nor 0", param=param)
    return ends[0], ends[1]


def _advertised(ctx: click.Context, param: click.Parameter, values: Sequence[str]) -> tuple[str, ...]:
    """Callback: HOST or HOST:PORT each."""
    hosts = split_list(values)
    for host in hosts:
        is_bare = ":" not in host or as_ip(host.removeprefix("[").removesuffix("]")) is not None
        address(ctx, param, "host:1" if is_bare else host)
    return hosts


@click.command(cls=Verb)
@click.option("--name", help="Name of this node.  [default: the machine's name]")
@click.option("--cluster", default="default", show_default=True, help="Name of the cluster to join.")
@click.option("--host", help="Address to bind and announce (gRPC).  [default: all of this machine's]")
@click.option("--port", type=click.IntRange(0, 65535), help="gRPC port; 0 takes a free one.  [default: 52414]")
@click.option(
    "--worker-ports",
    metavar="FIRST-LAST",
    default="52416-52479",
    show_default=True,
    callback=_port_range,
    help="Ports of the workers, two each; 0 takes free ones.",
)
@click.option(
    "--advertise",
    metavar="HOST[:PORT]",
    multiple=True,
    callback=_advertised,
    help="Address to announce instead of those bound, for example behind NAT. Repeatable.",
)
@click.option("--http", metavar="HOST:PORT", callback=address, help="HTTP address.  [default: 127.0.0.1:52415]")
@click.option("--peer", "peers", metavar="HOST:PORT", multiple=True, callback=addresses, help="A peer. Repeatable.")
@click.option("--no-mdns", is_flag=True, help="Neither look for peers by mDNS nor be found by it.")
@click.option("--memory", metavar="SIZE", callback=size, help="Most memory for weights and KV cache, such as 6GiB.")
@click.option("--threads", type=click.IntRange(min=1), metavar="N", help="Threads to compute with.")
@click.option(
    "--device",
    metavar="auto|cpu|cuda:N|mps",
    default="auto",
    show_default=True,
    callback=_device,
    help="Device to compute on.",
)
@keep_alive_option(
    "How long a model loaded by a request stays idle; 0: not at all, -1: for ever.  [default: 5m]", default="5m"
)
@click.option(
    "--cores-may-sleep",
    is_flag=True,
    help="Save power while answers are under way, at the cost of speed.  [default: Linux keeps cores awake if allowed]",
)
@click.option(
    "--hang-timeout",
    "hang_timeout_s",
    metavar="TIME",
    default="4s",
    show_default=True,
    callback=hang_timeout,
    help="Silence after which a worker counts as hung. Raise it on all nodes to stop one in a debugger.",
)
@folder_options
@click.option(
    "--log-format",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="Text is for people, JSON for programs.",
)
@api_key_option
@click.option(
    "--allowed-host",
    "allowed_hosts",
    metavar="NAME",
    multiple=True,
    callback=host_names,
    help="Host name to accept in HTTP requests without an API key; *: any. Repeatable.",
)
@click.pass_context
def node(
    ctx: click.Context,
    *,
    name: str | None,
    cluster: str,
    host: str | None,
    port: int | None,
    worker_ports: tuple[int, int],
    advertise: tuple[str, ...],
    http: tuple[str, int] | None,
    peers: tuple[str, ...],
    no_mdns: bool,
    memory: int | None,
    threads: int | None,
    device: str,
    keep_alive_s: float,
    cores_may_sleep: bool,
    hang_timeout_s: float,
    folders: Folders,
    log_format: Literal["text", "json"],
    api_key: str | None,
    allowed_hosts: tuple[str, ...],
) -> None:
    """Run this machine's daemon until SIGTERM or SIGINT.

    A default port that is in use moves to the next free one; a port that you ask for has to be free.
    """
    from exo_lite.daemon.main import run_daemon
    from exo_lite.node.node_config import NodeConfig

    config = NodeConfig(
        name=name,
        cluster=cluster,
        host=host,
        port=port,
        http=http,
        peers=peers,
        mdns=not no_mdns,
        memory_bytes=memory,
        threads=threads,
        device=device,
        data_dir=folders.data_dir,
        models_dir=folders.models_dir,
        log_format=log_format,
        api_key=api_key,
        keep_alive_s=keep_alive_s,
        cores_may_sleep=cores_may_sleep,
        allowed_hosts=allowed_hosts,
        advertise=advertise,
        worker_ports=worker_ports,
        hang_timeout_s=hang_timeout_s,
    )
    ctx.exit(run_daemon(config))
