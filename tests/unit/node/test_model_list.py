"""GET /v1/models: what a request would get, whether it is loaded or not."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from exo_lite.domain.cluster_events import SelfChanged
from exo_lite.domain.cluster_state import ClusterState
from exo_lite.domain.errors import ModelNotFound
from exo_lite.domain.ids import ModelId
from exo_lite.domain.load_options import DEFAULT_CONTEXT_LENGTH
from exo_lite.domain.placement import ModelDescription, ServedModel
from exo_lite.node import model_list
from exo_lite.node.cluster import Cluster
from exo_lite.node.model_list import ModelList
from tests.unit.node.cluster_states import FINGERPRINT, MODEL, SPEC, both_ready, cluster, instance, member, node, part
from tests.unit.node.conftest import MakeService

CREATED = 1_700_000_000
OTHER = ModelId("other")


class Stores:
    """What the nodes' stores say when they are asked."""

    def __init__(self) -> None:
        self.asked: list[ModelId] = []
        self.fingerprint = FINGERPRINT
        self.max_position_embeddings = SPEC.max_position_embeddings
        self.is_silent = False

    async def describe(self, model_id: ModelId) -> ModelDescription | None:
        self.asked.append(model_id)
        if self.is_silent:
            await asyncio.Event().wait()
        spec = replace(SPEC, max_position_embeddings=self.max_position_embeddings)
        return ModelDescription(model_id, self.fingerprint, spec, CREATED)


def listed(state: ClusterState, stores: Stores) -> ModelList:
    return ModelList(Cluster(state), stores.describe)


async def test_a_model_that_is_only_on_disk_is_listed_with_the_context_that_a_request_would_get() -> None:
    stores = Stores()
    stores.max_position_embeddings = 2 * DEFAULT_CONTEXT_LENGTH
    models = await listed(cluster(node("a")), stores).all()
    assert models == [ServedModel(MODEL, CREATED, "on_disk", DEFAULT_CONTEXT_LENGTH)]


async def test_a_loaded_one_has_its_own_state_and_context() -> None:
    placed = instance(part("a", 0, 3), state="warming")
    models = await listed(cluster(node("a"), [], placed), Stores()).all()
    assert models == [ServedModel(MODEL, CREATED, "warming", placed.options.context_length)]


async def test_models_on_every_living_node_count_and_dead_nodes_do_not() -> None:
    state = cluster(
        node("a", models={}),
        [member(node("b", models={OTHER: "1"})), member(node("c", models={ModelId("gone"): "2"}), "dead")],
    )
    assert [one.id for one in await listed(state, Stores()).all()] == [OTHER]


async def test_a_placed_model_is_listed_even_if_no_node_has_its_files_any_more() -> None:
    state = cluster(node("a", models={}), [], instance(part("a", 0, 3)))
    assert [one.id for one in await listed(state, Stores()).all()] == [MODEL]


async def test_a_model_is_described_once_and_again_when_its_files_change() -> None:
    stores, seen = Stores(), Cluster(cluster(node("a")))
    models = ModelList(seen, stores.describe)
    assert await models.all() == await models.all()
    assert stores.asked == [MODEL]
    stores.fingerprint, stores.max_position_embeddings = "new", 8
    seen.apply(SelfChanged(node("a", models={MODEL: "new"})))
    assert [one.context_length for one in await models.all()] == [8]
    assert stores.asked == [MODEL, MODEL]


async def test_a_node_that_does_not_answer_holds_up_no_list(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_list, "DESCRIBED_WITHIN_S", 0.0)
    stores = Stores()
    stores.is_silent = True
    assert await listed(cluster(node("a")), stores).all() == [ServedModel(MODEL, 0, "on_disk", None)]


async def test_a_node_without_the_files_says_so_and_not_where_it_looked(
    service_of: MakeService, tmp_path: Path
) -> None:
    with pytest.raises(ModelNotFound, match="node-a does not have the tokenizer of tiny") as refused:
        async with service_of(both_ready()).serve(MODEL):
            pass
    assert str(tmp_path) not in str(refused.value)


async def test_one_model_by_id_or_alias_or_not_at_all(service_of: MakeService) -> None:
    model_id = ModelId("llama-3-8b")
    service = service_of(cluster(node("a", models={model_id: "1"})))
    for name in ("llama-3-8b", "Llama-3-8B", "meta-llama/Meta-Llama-3-8B-Instruct"):
        assert (await service.model(name)).id == model_id
    with pytest.raises(ModelNotFound, match="did you mean llama-3-8b"):
        await service.model("llama-3-8c")
    with pytest.raises(ModelNotFound, match="no node has the files of llama-3-70b"):
        await service.model("llama-3-70b")
