"""`status`."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from contextlib import closing
from typing import TYPE_CHECKING, NoReturn

import click

from exo_lite.cli.config_file import Verb
from exo_lite.cli.errors import Failed
from exo_lite.cli.options import DaemonAddress, daemon_options, json_option
from exo_lite.cli.output import print_json
from exo_lite.cli.status_text import status_text

if TYPE_CHECKING:
    from exo_lite.cli.client import Document


@click.command(cls=Verb)
@click.option("--watch", is_flag=True, help="Show every change until Ctrl-C.")
@json_option
@daemon_options
def status(watch: bool, as_json: bool, daemon: DaemonAddress) -> None:
    """Show nodes, models, and each shard's node, layers, bytes and state."""
    from exo_lite.cli.client import DaemonClient

    with DaemonClient(daemon) as client:
        if watch:
            with closing(client.states()) as states:
                _follow(states, as_json=as_json)
        elif as_json:
            print_json(client.state())
        else:
            click.echo(status_text(client.state()))


def _follow(states: Iterable[Document], *, as_json: bool) -> NoReturn:
    """Show each state until Ctrl-C. Raises Failed when there are no more."""
    if as_json:
        for state in states:
            print_json(state, is_compact=True)  # a document per line
    elif sys.stdout.isatty():
        _follow_live(states)
    else:
        for state in states:
            click.echo(click.unstyle(status_text(state)) + "\n")
    raise Failed("the daemon has closed the connection; it may be shutting down")


def _follow_live(states: Iterable[Document]) -> None:
    from rich.live import Live
    from rich.text import Text

    with Live(auto_refresh=False, screen=True, vertical_overflow="visible") as live:
        for state in states:
            live.update(Text.from_ansi(status_text(state)), refresh=True)
