"""The cluster's state in words and columns."""

from __future__ import annotations

from typing import TYPE_CHECKING

from exo_lite.cli.output import table
from exo_lite.domain.units import format_bytes

if TYPE_CHECKING:
    from exo_lite.cli.client import Document


def status_text(state: Document) -> str:
    parts = [_headline(state), _nodes(state["nodes"]), *map(_unreached, state.get("unreached", ()))]
    if state["models"]:
        parts += [_models(state["models"]), _shards(state["models"])]
        parts += [_reason(model) for model in state["models"] if model["reason"]]
    else:
        parts.append("No model is loaded. `exo-lite run MODEL` loads one.")
    parts += [f"{note['text']}\nFix: {note['fix']}" for note in state.get("notes", ())]
    return "\n\n".join(parts)


def _reason(model: Document) -> str:
    fix = model.get("fix")
    return f"{model['id']}: {model['reason']}" + (f"\nFix: {fix}" if fix else "")


def _headline(state: Document) -> str:
    names = {node["id"]: node["name"] for node in state["nodes"]}
    leader = names.get(state["leader"], state["leader"])
    return f"Cluster {state['cluster']}, seen from {state['node']['name']}; leader {leader}, epoch {state['epoch']}"


def _nodes(nodes: list[Document]) -> str:
    headings = ["NODE", "STATE", "ADDRESS", "DEVICE", "LIMIT", "WEIGHTS", "KV CACHE", "FREE", "RTT"]
    return table(headings, [_node(node) for node in nodes], right=headings[4:])


def _node(node: Document) -> list[str]:
    memory = node["memory"]
    sizes = [memory[key] for key in ("limit_bytes", "weights_bytes", "kv_cache_bytes", "free_bytes")]
    name = f"{node['name']} (this one)" if node["self"] else node["name"]
    device = f"{node['device']['kind']}, {node['device']['threads']} threads"
    return [name, node["state"], node["address"], device, *map(format_bytes, sizes), _ms(node["rtt_ms"])]


def _unreached(peer: Document) -> str:
    who = f"{peer['name']} ({peer['address']})" if peer["name"] else peer["address"]
    return f"Not reached for {peer['since_s']:.0f} s: {who}: {peer['reason']}\nFix: {peer['fix']}"


def _models(models: list[Document]) -> str:
    headings = ["MODEL", "STATE", "LAYERS", "DTYPE", "QUANT", "CONTEXT", "TOKENS/S", "RUNNING", "WAITING"]
    return table(headings, [_model(model) for model in models], right=["LAYERS", *headings[5:]])


def _model(model: Document) -> list[str]:
    return [
        model["id"],
        model["state"],
        str(model["n_layers"]),
        model["dtype"],
        model["quant"],
        str(model["context_length"]),
        f"{model['tokens_per_second']:.1f}",
        str(model["requests"]["running"]),
        str(model["requests"]["waiting"]),
    ]


def _shards(models: list[Document]) -> str:
    headings = ["SHARD OF", "NODE", "START_LAYER", "END_LAYER", "WEIGHTS", "STATE", "COMPUTE", "HOP"]
    rows = [_shard(model["id"], shard) for model in models for shard in model["shards"]]
    return table(headings, rows, right=["START_LAYER", "END_LAYER", "WEIGHTS", "COMPUTE", "HOP"])


def _shard(model_id: str, shard: Document) -> list[str]:
    is_loading = shard["state"] == "loading"
    return [
        model_id,
        shard["node"],
        str(shard["start_layer"]),
        str(shard["end_layer"]),
        format_bytes(shard["weight_bytes"]),
        f"loading {100 * shard['progress']:.0f} %" if is_loading else shard["state"],
        _ms(shard["compute_ms"]),
        _ms(shard["hop_ms"]),
    ]


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f} ms"
