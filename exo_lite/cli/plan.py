"""`plan`: a placement that is not carried out, for the cluster or for machines that are not there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from exo_lite.cli.config_file import Verb
from exo_lite.cli.errors import DoesNotFit
from exo_lite.cli.load_flags import load_body, load_options
from exo_lite.cli.options import (
    DaemonAddress,
    Folders,
    daemon_options,
    folder_options,
    json_option,
    split_list,
)
from exo_lite.cli.output import print_json, table
from exo_lite.domain.errors import InvalidRequest
from exo_lite.domain.ids import NodeId
from exo_lite.domain.load_options import LoadRequest
from exo_lite.domain.plan import NodeOffer
from exo_lite.domain.units import format_bytes, parse_bytes

if TYPE_CHECKING:
    from exo_lite.cli.client import Document


def _offers(_: click.Context, param: click.Parameter, values: Sequence[str]) -> tuple[NodeOffer, ...]:
    offers = tuple(_offer(param, text) for text in split_list(values))
    names = [offer.name for offer in offers]
    if len(set(names)) < len(names):
        raise click.BadParameter(f"give each name only once: {', '.join(names)}", param=param)
    return offers


def _offer(param: click.Parameter, text: str) -> NodeOffer:
    name, _equals, memory = text.rpartition("=")
    if not name:
        raise click.BadParameter(f"{text!r} is not NAME=SIZE, such as laptop=6GiB", param=param)
    try:
        return NodeOffer(NodeId(name), name, parse_bytes(memory))
    except InvalidRequest as error:
        raise click.BadParameter(str(error), param=param) from error


@click.command(cls=Verb)
@click.argument("model")
@click.option(
    "--node",
    "offers",
    metavar="NAME=SIZE",
    multiple=True,
    callback=_offers,
    help="Plan for such a machine instead of asking a daemon: laptop=6GiB, for example. Repeatable.",
)
@load_options
@json_option
@daemon_options
@folder_options
def plan(
    model: str,
    *,
    offers: tuple[NodeOffer, ...],
    request: LoadRequest,
    as_json: bool,
    daemon: DaemonAddress,
    folders: Folders,
) -> None:
    """Show what of MODEL would be placed where, or how much memory is missing."""
    if offers:
        document, limits = _plan_here(model, request, offers, folders.models_dir), _limits_of(offers)
    else:
        document, limits = _ask_for_plan(model, request, daemon)
    if as_json:
        print_json(document)
    elif document["fits"]:
        click.echo(_plan_text(document, limits))
    if not document["fits"]:
        raise DoesNotFit(str(document["reason"]))


def _plan_here(model: str, request: LoadRequest, offers: Sequence[NodeOffer], models_dir: Path) -> Document:
    from exo_lite.api.plan_document import plan_document
    from exo_lite.cli.known_models import known_model
    from exo_lite.engine.table import footprints
    from exo_lite.planning.plan import plan as make_plan

    known = known_model(model, models_dir)
    spec, options = known.spec, request.resolve(known.spec)
    return plan_document(make_plan(known.model_id, spec.n_layers, options, offers, footprints(spec, options)))


def _limits_of(offers: Sequence[NodeOffer]) -> dict[str, int]:
    return {offer.name: offer.memory_bytes for offer in offers}


def _ask_for_plan(model: str, request: LoadRequest, daemon: DaemonAddress) -> tuple[Document, dict[str, int]]:
    """The plan, and what each node offers for models."""
    from exo_lite.cli.client import DaemonClient

    with DaemonClient(daemon) as client:
        document = client.plan({"model": model, **load_body(request)})
        nodes = client.state()["nodes"]
    return document, {node["name"]: node["memory"]["limit_bytes"] for node in nodes}


def _plan_text(document: Document, limits: Mapping[str, int]) -> str:
    headings = ["NODE", "START_LAYER", "END_LAYER", "WEIGHTS", "KV CACHE", "WORKING", "TOTAL", "LIMIT"]
    rows = [_row(shard, limits) for shard in document["shards"]]
    headline = f"{document['model']}, {document['n_layers']} layers, {document['strategy']}"
    excluded = [f"{one['node']} holds no layers: {one['reason']}" for one in document["excluded"]]
    return "\n".join([headline, "", table(headings, rows, right=headings[1:]), *excluded])


def _row(shard: Document, limits: Mapping[str, int]) -> list[str]:
    limit_bytes = limits.get(shard["node"])
    sizes = [shard[key] for key in ("weight_bytes", "kv_cache_bytes", "working_bytes", "memory_bytes")]
    limit = "-" if limit_bytes is None else format_bytes(limit_bytes)
    return [shard["node"], str(shard["start_layer"]), str(shard["end_layer"]), *map(format_bytes, sizes), limit]
