"""Notes on present trouble between nodes: sentences for people, each with the way out."""

from __future__ import annotations

from dataclasses import dataclass

from exo_lite.domain.cluster_state import ClusterState
from exo_lite.domain.errors import IncompatibleVersion, LinkBroken
from exo_lite.domain.ids import NodeId
from exo_lite.domain.links import broken_links, link_names, unreachable
from exo_lite.node.exactness import mixture
from exo_lite.node.hints import fix_for

NUMERICS_DIFFER = "numerics_differ"
LINK_BROKEN = "link_broken"
VERSION_DIFFERS = "version_differs"


@dataclass(frozen=True, slots=True)
class Note:
    """Stands for as long as it is true. `kind` is that of the event when it begins."""

    kind: str
    text: str
    fix: str


def notes(state: ClusterState) -> list[Note]:
    return [*_on_links(state), *_on_versions(state), *_on_numerics(state)]


def names(state: ClusterState) -> dict[NodeId, str]:
    """Return the names of the living nodes."""
    return {node_id: status.identity.name for node_id, status in state.living.items()}


def _on_links(state: ClusterState) -> list[Note]:
    pairs = link_names(broken_links(state), names(state))
    return [Note(LINK_BROKEN, unreachable(pair), fix_for(LinkBroken.code)) for pair in pairs]


def _on_versions(state: ClusterState) -> list[Note]:
    """Note different versions among nodes with the same protocol: others are refused."""
    own = state.self_status.identity
    others = [status.identity for status in state.living.values() if status.identity.version != own.version]
    return [
        Note(
            VERSION_DIFFERS,
            f"{one.name} runs exo-lite {one.version}, {own.name} runs {own.version}",
            fix_for(IncompatibleVersion.code),
        )
        for one in others
    ]


def _on_numerics(state: ClusterState) -> list[Note]:
    """A model on nodes that round differently works, and what needs exact numbers is off."""
    mixtures = ((one.model_id, mixture(state, one)) for one in state.instances if one.state != "failed")
    return [
        Note(
            NUMERICS_DIFFER,
            f"{model_id} is not exact: its nodes round differently, {mixed}. Answers may depend on the placement, "
            "speculative decoding is off, and the prefix cache reuses whole chunks only",
            "install a C compiler on each of its nodes, so that all compute with torch-c/c, and load it again",
        )
        for model_id, mixed in mixtures
        if mixed is not None
    ]
