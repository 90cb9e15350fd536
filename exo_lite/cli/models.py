"""`models` and `show`: the shard table. No daemon is needed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from exo_lite.cli.config_file import Verb
from exo_lite.cli.options import Folders, folder_options, json_option
from exo_lite.cli.output import note, print_json, table
from exo_lite.domain.units import format_bytes

if TYPE_CHECKING:
    from exo_lite.cli.known_models import KnownModel


MAX_DAMAGED = 20
"""Named one by one."""


@click.command(cls=Verb)
@folder_options
@json_option
def models(folders: Folders, as_json: bool) -> None:
    """List the models that exo-lite knows: layers, size, where each can be had, and which are here."""
    from exo_lite.cli.known_models import known_models, model_document
    from exo_lite.store.model_store import ModelStore

    survey = ModelStore(folders.models_dir).survey()
    known = known_models(survey)
    for damaged in survey.damaged[:MAX_DAMAGED]:
        note(f"{damaged.model_id} is damaged ({damaged.reason}): {damaged.fix}")
    if len(survey.damaged) > MAX_DAMAGED:
        note(f"{len(survey.damaged) - MAX_DAMAGED} more are damaged")
    if as_json:
        print_json([model_document(model) for model in known])
        return
    headings = ["MODEL", "LAYERS", "PARAMETERS", "SIZE", "HERE", "FROM"]
    click.echo(table(headings, [_row(model) for model in known], right=headings[1:4]))


def _row(model: KnownModel) -> list[str]:
    sources = model.sources.get("torch", "-")
    is_here = "no" if model.path is None else "other" if model.differences else "yes"
    parameters, size = _parameters(model.spec.num_parameters), format_bytes(model.weight_bytes)
    return [model.model_id, str(model.spec.n_layers), parameters, size, is_here, sources]


def _parameters(num_parameters: int) -> str:
    if num_parameters >= 10**9:
        return f"{num_parameters / 10**9:.1f} B"
    return f"{num_parameters / 10**6:.0f} M"


@click.command(cls=Verb)
@click.argument("model")
@folder_options
@json_option
def show(model: str, folders: Folders, as_json: bool) -> None:
    """Show MODEL, an id or an alias, with every dimension."""
    from exo_lite.cli.known_models import full_document, known_model

    document = full_document(known_model(model, folders.models_dir))
    if as_json:
        print_json(document)
        return
    width = max(map(len, document))
    click.echo("\n".join(f"{key:<{width}}  {_text(key, value)}" for key, value in document.items()))


def _text(key: str, value: Any) -> str:
    match value:
        case bool():
            return "yes" if value else "no"
        case int() if key == "weight_bytes":
            return f"{value} ({format_bytes(value)})"
        case list():
            return ", ".join(map(str, value)) or "-"
        case dict():
            return ", ".join(f"{name}: {one}" for name, one in value.items()) or "-"
        case _:
            return "-" if value is None else str(value)
