"""`load` and `unload`."""

from __future__ import annotations

from dataclasses import replace

import click

from exo_lite.cli.config_file import Verb
from exo_lite.cli.load_flags import keep_alive_option, load_body, load_options
from exo_lite.cli.options import DaemonAddress, daemon_options
from exo_lite.domain.load_options import LoadRequest


@click.command(cls=Verb)
@click.argument("model")
@load_options
@keep_alive_option(
    "How long it stays after its last request, such as 5m; 0: not at all, -1: for ever.  [default: for ever]"
)
@click.option("--wait", "is_waiting", is_flag=True, help="Wait until it is ready, and show the progress.")
@daemon_options
def load(
    model: str, *, request: LoadRequest, keep_alive_s: float | None, is_waiting: bool, daemon: DaemonAddress
) -> None:
    """Place MODEL on the cluster's nodes and load it. Idle models are unloaded where it needs their memory."""
    from exo_lite.cli.client import DaemonClient
    from exo_lite.cli.load_progress import load_and_wait

    request = replace(request, keep_alive_s=keep_alive_s)
    with DaemonClient(daemon) as client:
        placed = load_and_wait(client, model, request) if is_waiting else client.load(model, load_body(request))
    click.echo(f"{placed['id']}: {placed['state']}")


@click.command(cls=Verb)
@click.argument("model")
@daemon_options
def unload(model: str, daemon: DaemonAddress) -> None:
    """Take MODEL out of memory on every node."""
    from exo_lite.cli.client import DaemonClient

    with DaemonClient(daemon) as client:
        client.unload(model)
    click.echo(f"{model}: unloaded")
