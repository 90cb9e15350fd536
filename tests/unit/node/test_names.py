"""Requests for any name of a model go to that model, and to no other."""

from __future__ import annotations

import pytest

from exo_lite.catalog.table import load_table
from exo_lite.domain.errors import ModelNotFound
from exo_lite.domain.ids import ModelId
from tests.unit.node.cluster_states import FINGERPRINT, cluster, node
from tests.unit.node.conftest import MakeService

ROWS = load_table().rows


async def test_each_name_of_the_table_leads_to_its_own_model(service_of: MakeService) -> None:
    service = service_of(cluster(node("a", models={row.model_id: FINGERPRINT for row in ROWS})))
    for row in ROWS:
        for name in (*row.names, row.model_id.upper()):
            assert (await service.model(name)).id == row.model_id


async def test_a_folder_named_like_an_alias_answers_no_request(service_of: MakeService) -> None:
    """As earlier versions left it; this one's store does not list it."""
    service = service_of(cluster(node("a", models={ModelId("vicuna"): FINGERPRINT})))
    with pytest.raises(ModelNotFound, match="vicuna"):
        await service.model("vicuna")


async def test_a_model_of_ones_own_is_found_by_its_id_alone(service_of: MakeService) -> None:
    service = service_of(cluster(node("a", models={ModelId("mine"): FINGERPRINT})))
    assert (await service.model("mine")).id == "mine"
    with pytest.raises(ModelNotFound, match="did you mean mine"):
        await service.model("Mine")
