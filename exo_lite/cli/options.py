"""Flags that several verbs share, each group handed to the verb as one value."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from exo_lite.domain.api_key import parse_api_key
from exo_lite.domain.errors import InvalidRequest
from exo_lite.domain.keep_alive import parse_duration
from exo_lite.domain.units import parse_bytes
from exo_lite.domain.worker import MIN_HANG_TIMEOUT_S

DEFAULT_HTTP = "127.0.0.1:52415"

_HOST_NAME = re.compile(r"(?!-)[A-Za-z0-9_.-]{1,253}")

Function = Callable[..., Any]
Decorator = Callable[[Function], Function]


@dataclass(frozen=True, slots=True)
class DaemonAddress:
    """The daemon's address, and the API key for it."""

    host: str
    port: int
    api_key: str | None = None

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Folders:
    data_dir: Path
    models_dir: Path


def address(_: click.Context, param: click.Parameter, value: str | None) -> tuple[str, int] | None:
    """Callback: (host, port) of HOST:PORT; an IPv6 host stands in brackets."""
    if value is None:
        return None
    host, _colon, port = value.rpartition(":")
    is_bracketed = host.startswith("[") and host.endswith("]")
    if not host or not port.isascii() or not port.isdigit() or int(port) > 65535 or (":" in host and not is_bracketed):
        raise click.BadParameter(f"{value!r} is not HOST:PORT with a port from 0 to 65535", param=param)
    return (host[1:-1] if is_bracketed else host), int(port)


def addresses(ctx: click.Context, param: click.Parameter, values: Sequence[str]) -> tuple[str, ...]:
    """Callback: HOST:PORT each, also several in one value, with commas between them."""
    peers = split_list(values)
    for peer in peers:
        address(ctx, param, peer)
    return peers


def host_names(_: click.Context, param: click.Parameter, values: Sequence[str]) -> tuple[str, ...]:
    """Callback: names without a port, also several in one value, with commas between them."""
    names = split_list(values)
    for name in names:
        if name != "*" and not _HOST_NAME.fullmatch(name):
            raise click.BadParameter(f"{name!r} is not a host name: no scheme, no port, no path", param=param)
    return names


def split_list(values: Sequence[str]) -> tuple[str, ...]:
    return tuple(part for value in values for part in value.replace(",", " ").split())


def size(_: click.Context, param: click.Parameter, value: str | None) -> int | None:
    """Callback: bytes of `6GiB`."""
    try:
        return None if value is None else parse_bytes(value)
    except InvalidRequest as error:
        raise click.BadParameter(str(error), param=param) from error


def grouped(name: str, options: dict[str, Decorator], build: Callable[..., Any]) -> Decorator:
    """A decorator that declares `options`, by parameter name, and passes `build(*their values)` as `name`."""

    def decorate(function: Function) -> Function:
        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            values = [kwargs.pop(parameter) for parameter in options]
            return function(*args, **{name: build(*values)}, **kwargs)

        decorated: Function = call
        for option in reversed(options.values()):
            decorated = option(decorated)
        return decorated

    return decorate


def _daemon_address(http: tuple[str, int], api_key: str | None) -> DaemonAddress:
    host, port = http
    reachable = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # one setting may serve `node` and its callers
    return DaemonAddress(reachable, port, api_key)


def _api_key(_: click.Context, param: click.Parameter, value: str | None) -> str | None:
    try:
        return None if value is None else parse_api_key(value)
    except InvalidRequest as error:
        raise click.BadParameter(str(error), param=param) from error


api_key_option: Decorator = click.option(
    "--api-key", metavar="KEY", callback=_api_key, help="API key of the HTTP interface."
)

daemon_options: Decorator = grouped(
    "daemon",
    {
        "http": click.option(
            "--http",
            metavar="HOST:PORT",
            default=DEFAULT_HTTP,
            show_default=True,
            callback=address,
            help="HTTP address of the daemon to ask.",
        ),
        "api_key": api_key_option,
    },
    _daemon_address,
)


def hang_timeout(_: click.Context, param: click.Parameter, value: str) -> float:
    """Callback: seconds of `4s` or `10m`."""
    try:
        seconds = parse_duration(value)
    except InvalidRequest as error:
        raise click.BadParameter(str(error), param=param) from error
    if seconds < MIN_HANG_TIMEOUT_S:
        raise click.BadParameter(f"{value} is too short to tell: give at least {MIN_HANG_TIMEOUT_S:g} s", param=param)
    return seconds


def _folders(data_dir: Path | None, models_dir: Path | None) -> Folders:
    if data_dir is None:
        from platformdirs import user_data_path

        data_dir = user_data_path("exo-lite", appauthor=False)
    return Folders(data_dir, models_dir or data_dir / "models")


folder_options: Decorator = grouped(
    "folders",
    {
        "data_dir": click.option(
            "--data-dir",
            type=click.Path(file_okay=False, path_type=Path),
            help="Folder for this node's id and state.  [default: exo-lite in your data folder]",
        ),
        "models_dir": click.option(
            "--models-dir",
            type=click.Path(file_okay=False, path_type=Path),
            help="Folder of the models.  [default: models in the data folder]",
        ),
    },
    _folders,
)

json_option: Decorator = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
