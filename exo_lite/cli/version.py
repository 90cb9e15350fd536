"""`version`."""

from __future__ import annotations

import platform
from importlib import metadata

import click

from exo_lite import __version__
from exo_lite.cli.config_file import Verb
from exo_lite.cli.options import json_option
from exo_lite.cli.output import print_json


@click.command(cls=Verb)
@json_option
def version(as_json: bool) -> None:
    """Show the versions of exo-lite, Python and torch."""
    versions = {"exo_lite": __version__, "python": platform.python_version(), "torch": _torch_version()}
    if as_json:
        print_json(versions)
        return
    click.echo(f"exo-lite {versions['exo_lite']}, Python {versions['python']}, torch {versions['torch'] or 'missing'}")


def _torch_version() -> str | None:
    try:
        return metadata.version("torch")  # importing torch takes seconds
    except metadata.PackageNotFoundError:
        return None
