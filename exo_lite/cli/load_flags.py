"""The flags of whatever may load a model, and the body that says the same over HTTP."""

from __future__ import annotations

from typing import Any

import click

from exo_lite.cli.options import Decorator, grouped
from exo_lite.domain.errors import InvalidRequest
from exo_lite.domain.keep_alive import FOR_EVER, parse_keep_alive
from exo_lite.domain.load_options import (
    AUTO,
    LOAD_OPTIONS,
    LoadOption,
    LoadRequest,
    load_request_from_json,
    options_to_json,
)


def _load_option(option: LoadOption) -> Decorator:
    """A flag without a default of its own: an option that nobody names is left open."""
    flag = option.name.replace("_", "-")
    return click.option(
        *(f"--{flag}/--no-{flag}" if option.kind is bool else f"--{flag}", option.name),
        type=_flag_type(option),
        default=None,
        metavar=option.metavar,
        help=f"{option.help}  [default: {_default_text(option, flag)}]",
    )


def _flag_type(option: LoadOption) -> click.ParamType[Any]:
    if option.kind is bool:
        return click.BOOL
    if option.kind is int:
        return click.IntRange(min=1, max=option.maximum)
    return click.Choice([*([AUTO] if option.has_auto else []), *option.words])


def _default_text(option: LoadOption, flag: str) -> str:
    if option.has_auto:
        return AUTO
    if option.kind is bool:
        return flag if option.default else f"no-{flag}"
    return option.default_text or str(option.default)


def _load_request(*values: Any) -> LoadRequest:
    return load_request_from_json({option.name: value for option, value in zip(LOAD_OPTIONS, values, strict=True)})


load_options: Decorator = grouped("request", {one.name: _load_option(one) for one in LOAD_OPTIONS}, _load_request)


def _keep_alive(_: click.Context, param: click.Parameter, value: str | None) -> float | None:
    """Callback: seconds of `5m`."""
    try:
        return None if value is None else parse_keep_alive(value)
    except InvalidRequest as error:
        raise click.BadParameter(str(error), param=param) from error


def keep_alive_option(help_text: str, *, default: str | None = None) -> Decorator:
    """`--keep-alive`, as seconds."""
    return click.option(
        *("--keep-alive", "keep_alive_s"), metavar="TIME", callback=_keep_alive, default=default, help=help_text
    )


def load_body(request: LoadRequest) -> dict[str, Any]:
    """The body of a load request over HTTP; what is left open is left out."""
    body = options_to_json(request)
    if request.keep_alive_s is not None:
        body["keep_alive"] = -1 if request.keep_alive_s == FOR_EVER else request.keep_alive_s  # JSON has no infinity
    return body | ({"on_demand": True} if request.is_on_demand else {})
