"""Exactness of placed models: all stages give a token the same bits, whatever is computed beside it. Pure."""

from __future__ import annotations

from exo_lite.domain.cluster_state import ClusterState
from exo_lite.domain.engine import are_same_numbers
from exo_lite.domain.placement import Instance


def is_exact(state: ClusterState, instance: Instance) -> bool:
    """Say whether all parts are loaded and compute the same numbers."""
    statuses = [state.shard_status(instance, part) for part in instance.assignments]
    return are_same_numbers([status.report.numerics if status else None for status in statuses])


def mixture(state: ClusterState, instance: Instance) -> str | None:
    """Say which nodes compute what, where loaded parts compute different numbers; None where they don't."""
    names: dict[str | None, list[str]] = {}
    for part in instance.assignments:
        status = state.shard_status(instance, part)
        if status is not None and status.state == "ready":
            names.setdefault(status.report.numerics, []).append(part.name)
    if len(names) < 2:
        return None
    return ", ".join(f"{' and '.join(nodes)} with {numerics or 'floats'}" for numerics, nodes in names.items())
