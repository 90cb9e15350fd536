"""An order that names a model has every node look first: what was imported a moment ago counts."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from exo_lite.domain.cluster_events import SelfChanged
from exo_lite.domain.errors import ModelNotFound
from exo_lite.domain.heartbeat import Heartbeat
from exo_lite.domain.ids import ModelId
from exo_lite.domain.load_options import LoadRequest
from exo_lite.domain.node import NodeStatus
from exo_lite.domain.placement import ModelDescription
from exo_lite.node.cluster import Cluster
from exo_lite.node.model_search import ModelSearch
from exo_lite.transport.node_server import serve_node
from tests.loopback import PEERS, handlers_of
from tests.unit.node.cluster_states import FINGERPRINT, MODEL, SPEC, cluster, member, node
from tests.unit.node.conftest import MakeService, membership_of


class Peer:
    """Node b. It has the model's files from the start, and says so once it has looked."""

    def __init__(self, held: dict[ModelId, str]) -> None:
        self.held = held
        self.status = node("b", models={}, limit_bytes=2**20)
        self.num_looks = 0

    async def on_describe_model(self, model_id: ModelId) -> ModelDescription:
        self.num_looks += 1
        self.status = replace(self.status, sequence=self.status.sequence + 1, models=self.held)
        if model_id not in self.held:
            raise ModelNotFound(f"no files of {model_id}")
        return ModelDescription(model_id, self.held[model_id], SPEC)

    def on_heartbeat(self, heartbeat: Heartbeat) -> Heartbeat:
        return Heartbeat(self.status)


@pytest.fixture
async def peer() -> AsyncIterator[Peer]:
    peer, server = Peer({MODEL: FINGERPRINT}), PEERS.node_server()
    serve_node(server, handlers_of(peer))
    address = f"127.0.0.1:{PEERS.bind(server, '127.0.0.1', 0)}"
    peer.status = replace(peer.status, identity=replace(peer.status.identity, addresses=(address,)))
    await server.start()
    yield peer
    await server.stop(grace=None)


def seen_by(this: NodeStatus, peer: Peer) -> Cluster:
    return Cluster(cluster(this, [replace(member(peer.status), answered_at_s=10.0)]))


async def test_files_that_came_a_moment_ago_count_in_a_placement(service_of: MakeService, peer: Peer) -> None:
    seen = seen_by(node("a", models={}), peer)
    instance = await service_of(seen).load(MODEL, LoadRequest(context_length=8, num_slots=1))
    assert [part.name for part in instance.assignments] == ["node-b"]
    assert seen.state.living[peer.status.identity.node_id].models == {MODEL: FINGERPRINT}


async def test_this_node_looks_too_and_only_who_is_not_known_to_have_the_files_is_asked(peer: Peer) -> None:
    this = node("a", models={})
    seen = seen_by(this, peer)
    num_looks = 0

    async def look() -> None:
        nonlocal num_looks
        num_looks += 1
        seen.apply(SelfChanged(replace(seen.state.self_status, sequence=num_looks + 1, models={MODEL: FINGERPRINT})))

    search = ModelSearch(seen, PEERS, membership_of(seen).heartbeats, look)
    await search.look(MODEL)
    assert (num_looks, peer.num_looks) == (1, 1)
    await search.look(MODEL)
    await search.look(MODEL, FINGERPRINT)
    assert (num_looks, peer.num_looks) == (1, 1)
    await search.look(MODEL, "other files")
    assert (num_looks, peer.num_looks) == (2, 2)


async def test_a_request_for_a_model_that_nobody_has_is_refused_once_all_have_looked(
    service_of: MakeService, peer: Peer
) -> None:
    service = service_of(seen_by(node("a", models={}), peer))
    with pytest.raises(ModelNotFound, match="there is no model 'absent'"):
        async with service.serve("absent"):
            pass
    assert peer.num_looks == 1
