"""`import` and `rm`: the models on this machine's disk. No daemon is needed; one that runs sees the change."""

from __future__ import annotations

from pathlib import Path

import click

from exo_lite.cli.config_file import Verb
from exo_lite.cli.options import Folders, folder_options
from exo_lite.cli.output import note, progress
from exo_lite.domain.units import format_bytes


@click.command(cls=Verb, name="import")
@click.argument("path", type=click.Path(path_type=Path))
@click.option(
    "--as",
    "model_id",
    metavar="ID",
    required=True,
    help="Id to store it under, such as smollm2-135m, or another name of a model that `models` lists.",
)
@folder_options
def import_model(path: Path, model_id: str, folders: Folders) -> None:
    """Take in the model at PATH.

    PATH is a Hugging Face folder or one of its hub cache's (models--ORG--NAME), a .gguf file or a folder with one, or a
    model of Ollama's (its manifest or its blob).
    """
    from exo_lite.catalog.table import load_table
    from exo_lite.store.model_store import ModelStore

    kept_as = load_table().id_of(model_id)
    with progress() as show:

        def on_progress(written_bytes: int, total_bytes: int) -> None:
            show(f"importing {kept_as}", written_bytes / total_bytes if total_bytes else 1.0)

        stored = ModelStore(folders.models_dir).import_path(path, model_id, on_progress, note)
    click.echo(f"{stored.model_id}: {stored.spec.n_layers} layers, {format_bytes(stored.weight_bytes)}, {stored.path}")


@click.command(cls=Verb, name="rm")
@click.argument("model")
@folder_options
def remove(model: str, folders: Folders) -> None:
    """Remove MODEL's files from this machine."""
    from exo_lite.store.model_store import ModelStore

    model_id = ModelStore(folders.models_dir).remove(model)
    click.echo(f"{model_id}: removed")
