"""Flags that several verbs share, each group handed to the verb as one value."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast, get_args

import click

from exo_lite.domain.api_key import parse_api_key
from exo_lite.domain.errors import InvalidRequest
from exo_lite.domain.keep_alive import FOR_EVER, parse_duration, parse_keep_alive
from exo_lite.domain.model_spec import DType, Quantization
from exo_lite.domain.plan import LoadWish, Strategy
from exo_lite.domain.units import parse_bytes
from exo_lite.domain.worker import MIN_HANG_TIMEOUT_S

DEFAULT_HTTP = "127.0.0.1:52415"

_HOST_NAME = re.compile(r"(?!-)[A-Za-z0-9_.-]{1,253}")

Function = Callable[..., Any]
Decorator = Callable[[Function], Function]


@dataclass(frozen=True, slots=True)
class DaemonAddress:
    """Where a verb finds the daemon, and the key that opens it."""

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
    "--api-key", metavar="KEY", callback=_api_key, help="Key that the HTTP interface asks for."
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


def _wish(
    dtype: str,
    quant: Quantization,
    context: int | None,
    slots: int | None,
    strategy: Strategy,
    prefix_cache: bool,
    speculation: bool,
) -> LoadWish:
    wished_dtype = None if dtype == "auto" else cast(DType, dtype)
    return LoadWish(wished_dtype, quant, context, slots, strategy, prefix_cache=prefix_cache, speculation=speculation)


load_options: Decorator = grouped(
    "wish",
    {
        "dtype": click.option(
            "--dtype",
            type=click.Choice(["auto", "float32", "bfloat16", "float16"]),
            default="auto",
            show_default=True,
            help="Type to compute in; auto: the checkpoint's own, where the device has it.",
        ),
        "quant": click.option(
            "--quant",
            type=click.Choice(get_args(Quantization)),
            default="none",
            show_default=True,
            help="Quantize the weights of the layers.",
        ),
        "context": click.option(
            "--context",
            type=click.IntRange(min=1),
            metavar="TOKENS",
            help="Longest sequence, prompt and answer.  [default: 2048, or the model's own limit if less]",
        ),
        "slots": click.option(
            "--slots",
            type=click.IntRange(min=1, max=256),
            metavar="N",
            help="Sequences under way at the same time.  [default: 8]",
        ),
        "strategy": click.option(
            "--strategy",
            type=click.Choice(get_args(Strategy)),
            default="by_memory",
            show_default=True,
            help="How layers are split: in proportion to memory, or so that all nodes, if as fast, take as long.",
        ),
        "prefix_cache": click.option(
            "--prefix-cache/--no-prefix-cache",
            default=True,
            show_default=True,
            help="Compute the common beginning of prompts once.",
        ),
        "speculation": click.option(
            "--speculation/--no-speculation",
            default=True,
            show_default=True,
            help="Guess tokens from the text so far where that is faster.",
        ),
    },
    _wish,
)


def keep_alive(_: click.Context, param: click.Parameter, value: str | None) -> float | None:
    """Callback: seconds of `5m`."""
    try:
        return None if value is None else parse_keep_alive(value)
    except InvalidRequest as error:
        raise click.BadParameter(str(error), param=param) from error


def hang_timeout(_: click.Context, param: click.Parameter, value: str) -> float:
    """Callback: seconds of `4s` or `10m`."""
    try:
        seconds = parse_duration(value)
    except InvalidRequest as error:
        raise click.BadParameter(str(error), param=param) from error
    if seconds < MIN_HANG_TIMEOUT_S:
        raise click.BadParameter(
            f"{value} is less than the {MIN_HANG_TIMEOUT_S:g} s that it takes to tell", param=param
        )
    return seconds


def keep_alive_option(help_text: str, *, default: str | None = None) -> Decorator:
    """`--keep-alive`, as seconds."""
    return click.option(
        *("--keep-alive", "keep_alive_s"), metavar="TIME", callback=keep_alive, default=default, help=help_text
    )


def load_body(wish: LoadWish) -> dict[str, str | float]:
    """What the HTTP API calls the fields of a wish; what is left open is left out."""
    body: dict[str, str | float] = {"strategy": wish.strategy, "dtype": wish.dtype or "auto", "quant": wish.quant}
    kept_s = -1 if wish.keep_alive_s == FOR_EVER else wish.keep_alive_s  # JSON has no infinity
    open_ones = {"context": wish.context_length, "slots": wish.num_slots, "keep_alive": kept_s}
    asked = {"on_demand": True} if wish.is_on_demand else {}
    switched_off = {"prefix_cache": not wish.prefix_cache, "speculation": not wish.speculation}
    asked |= {key: False for key, is_off in switched_off.items() if is_off}
    return body | asked | {key: value for key, value in open_ones.items() if value is not None}


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

json_option: Decorator = click.option("--json", "as_json", is_flag=True, help="Answer in JSON.")
