"""Waiting for a model: what the cluster's state says of its loading, as progress and as an end."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import closing
from typing import TYPE_CHECKING

from exo_lite.catalog.table import load_table
from exo_lite.cli.errors import Failed
from exo_lite.cli.load_flags import load_body
from exo_lite.cli.output import ShowProgress, progress
from exo_lite.domain.load_options import LoadRequest

if TYPE_CHECKING:
    from exo_lite.cli.client import DaemonClient, Document


def find_model(state: Document, model_id: str) -> Document | None:
    return next((model for model in state.get("models", []) if model["id"] == model_id), None)


def make_ready(
    client: DaemonClient, model: str, request: LoadRequest, *, will_do: Callable[[Document], bool] = lambda _: True
) -> Document:
    """Return the state document of a model that answers, loading it unless one that is ready will do.

    Raises Failed, and what the daemon refuses.
    """
    row = load_table().find(model)  # the state knows no aliases
    found = find_model(client.state(), row.model_id if row else model)
    if found is not None and found["state"] == "ready" and will_do(found):
        return found
    return load_and_wait(client, model, request)


def load_and_wait(client: DaemonClient, model: str, request: LoadRequest) -> Document:
    """Ask for a model and return its state document once it is ready. Raises Failed, and what the daemon refuses."""
    asked = client.load(model, load_body(request))
    with progress() as show, closing(client.states()) as states:
        return wait_until_ready(states, asked, show)


def wait_until_ready(states: Iterable[Document], asked: Document, show: ShowProgress) -> Document:
    """Follow the states until the load that `asked` describes is over. Raises Failed."""
    model_id, epoch = str(asked["id"]), int(asked["epoch"])
    was_seen = False
    for state in states:
        model = find_model(state, model_id)
        if model is None:
            if was_seen or state["epoch"] > epoch:
                raise Failed(f"{model_id} was unloaded while it was being loaded")
            continue
        was_seen = True
        if model["epoch"] < epoch:
            continue  # still the placement before ours
        if model["state"] == "ready":
            return model
        if model["state"] == "failed":
            raise Failed(f"{model_id} could not be loaded: {model['reason']}")
        show(f"{model['state']} {model_id}", loaded_fraction(model))
    raise Failed(f"the daemon stopped reporting {model_id} before it was ready")


def loaded_fraction(model: Document) -> float:
    """Return the fraction of the layers that are in memory, from 0 to 1."""
    layers = [(shard["end_layer"] - shard["start_layer"] + 1, shard["progress"]) for shard in model["shards"]]
    total = sum(num_layers for num_layers, _ in layers)
    return sum(num_layers * share for num_layers, share in layers) / total if total else 0.0
