"""The sources of a flag's value when the command line has none: the environment, then the configuration file.

The file is TOML. Its keys are flags: at the top for every verb that has the flag, in a [verb] table for that verb.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click

from exo_lite.cli.errors import WrongUsage

_PROGRAM_CONFIG = "exo_lite.cli.config_file"

Flags = Mapping[str, click.Option]
"""One verb's options, by flag without the dashes in front."""


class Verb(click.Command):
    """A command whose every flag can be set by EXO_LITE_<FLAG> and by the configuration file."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for flag, option in flags_of(self).items():
            option.envvar = f"EXO_LITE_{flag.upper().replace('-', '_')}"
        self.params.append(_config_option(_set_defaults))


def program_config_option() -> click.Option:
    """The --config before a verb. One after the verb goes before it."""
    return _config_option(_remember, envvar="EXO_LITE_CONFIG")


def flags_of(command: click.Command) -> Flags:
    """Keyed as in the file: `models-dir` for --models-dir."""
    options = [option for option in command.params if isinstance(option, click.Option)]
    return {max(option.opts, key=len).lstrip("-"): option for option in options if option.name != "config"}


def verb_defaults(document: Mapping[str, Any], verb: str, verbs: Mapping[str, Flags]) -> dict[str, Any]:
    """Return a file's values for the parameters of `verb`, by parameter name. Raises WrongUsage for unknown keys."""
    _refuse_unknown(document, verbs)
    shared = {key: value for key, value in _with_dashes(document).items() if not isinstance(value, dict)}
    own = _with_dashes(document.get(verb, {}))
    flags = verbs[verb]
    return {
        str(flags[key].name): _value(key, flags[key], value) for key, value in (shared | own).items() if key in flags
    }


def _with_dashes(table: Mapping[str, Any]) -> dict[str, Any]:
    return {key.replace("_", "-"): value for key, value in table.items()}


def _refuse_unknown(document: Mapping[str, Any], verbs: Mapping[str, Flags]) -> None:
    everything = {flag for flags in verbs.values() for flag in flags}
    for key, value in document.items():
        if not isinstance(value, dict):
            _refuse_unless(key.replace("_", "-") in everything, f"no verb has a flag --{key}")
            continue
        _refuse_unless(key in verbs, f"[{key}] is not a verb; there are {', '.join(verbs)}")
        for flag in _with_dashes(value):
            _refuse_unless(flag in verbs[key], f"`{key}` has no flag --{flag}")


def _refuse_unless(is_known: bool, message: str) -> None:
    if not is_known:
        raise WrongUsage(message)


def _value(key: str, option: click.Option, value: Any) -> Any:
    """Convert a value to the command line's form: a list of texts, a bool or a text. Raises WrongUsage."""
    if option.multiple:
        return [_text(key, one) for one in (value if isinstance(value, list) else [value])]
    if option.is_flag:
        _refuse_unless(isinstance(value, bool), f"{key} must be true or false, not {value!r}")
        return value
    return _text(key, value)


def _text(key: str, value: Any) -> str:
    is_plain = isinstance(value, str | int | float) and not isinstance(value, bool)
    _refuse_unless(is_plain, f"{key} must be a text or a number, not {value!r}")
    return str(value)


def _config_option(
    callback: Callable[[click.Context, click.Parameter, Path | None], None], *, envvar: str | None = None
) -> click.Option:
    return click.Option(
        ["--config"],
        type=click.Path(dir_okay=False, path_type=Path),
        envvar=envvar,
        is_eager=True,  # what it says are the defaults of the other flags
        expose_value=False,
        callback=callback,
        help="Configuration file (TOML).  [default: exo-lite/config.toml in your configuration folder]",
    )


def _remember(ctx: click.Context, _: click.Parameter, value: Path | None) -> None:
    ctx.meta[_PROGRAM_CONFIG] = value


def _set_defaults(ctx: click.Context, _: click.Parameter, value: Path | None) -> None:
    group = ctx.parent
    if ctx.resilient_parsing or group is None or not isinstance(group.command, click.Group):
        return
    path = value or ctx.meta.get(_PROGRAM_CONFIG) or _default_path()
    if path is None:
        return
    found = {verb: group.command.get_command(group, verb) for verb in group.command.list_commands(group)}
    verbs = {verb: flags_of(command) for verb, command in found.items() if command is not None}
    try:
        ctx.default_map = verb_defaults(_read(path), str(ctx.info_name), verbs)
    except WrongUsage as error:
        raise WrongUsage(f"configuration file {path}: {error}") from error


def _default_path() -> Path | None:
    from platformdirs import user_config_path

    path = user_config_path("exo-lite", appauthor=False) / "config.toml"
    return path if path.exists() else None


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        cause = error.strerror if isinstance(error, OSError) else error
        raise WrongUsage(f"cannot be read: {cause}") from error
