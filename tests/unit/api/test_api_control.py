from __future__ import annotations

import httpx2
import pytest

from exo_lite.api.plan_document import plan_document
from exo_lite.domain.errors import ModelDoesNotFit
from exo_lite.domain.keep_alive import FOR_EVER
from exo_lite.domain.load_options import LoadRequest
from exo_lite.domain.step import StageTiming
from exo_lite.domain.trace import RequestTrace, StepTrace
from tests.unit.api.scripted_daemon import MODEL, STATE, ScriptedDaemon, sample_plan, sample_refusal


async def test_the_state_document(client: httpx2.AsyncClient) -> None:
    assert (await client.get("/api/v1/state")).json() == STATE


async def test_load_without_options(client: httpx2.AsyncClient, daemon: ScriptedDaemon) -> None:
    response = await client.post(f"/api/v1/models/{MODEL}/load")
    assert response.status_code == 202
    assert response.json() == {"id": MODEL, "state": "loading", "epoch": 7}
    assert daemon.loads == [(MODEL, LoadRequest())]


async def test_load_with_options(client: httpx2.AsyncClient, daemon: ScriptedDaemon) -> None:
    body = {"strategy": "by_memory", "dtype": "float16", "quant": "int8", "context": 512, "slots": 2}
    response = await client.post("/api/v1/models/org%2Fname/load", json=body)
    assert response.status_code == 202
    assert daemon.loads == [("org/name", LoadRequest("float16", "int8", 512, 2, "by_memory"))]


@pytest.mark.parametrize(("keep_alive", "seconds"), [("5m", 300.0), (0, 0.0), (-1, FOR_EVER)])
async def test_load_as_a_request_does_it_with_a_time_to_keep(
    client: httpx2.AsyncClient, daemon: ScriptedDaemon, keep_alive: str | int, seconds: float
) -> None:
    await client.post(f"/api/v1/models/{MODEL}/load", json={"on_demand": True, "keep_alive": keep_alive})
    assert daemon.loads == [(MODEL, LoadRequest(keep_alive_s=seconds, is_on_demand=True))]


@pytest.mark.parametrize(
    "body", [{"quant": "int3"}, {"context": 0}, {"slots": 1000}, {"qant": "int8"}, {"keep_alive": "x"}]
)
async def test_load_options_are_checked(client: httpx2.AsyncClient, body: dict[str, object]) -> None:
    response = await client.post(f"/api/v1/models/{MODEL}/load", json=body)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == next(iter(body))


async def test_auto_is_the_checkpoints_own_type(client: httpx2.AsyncClient, daemon: ScriptedDaemon) -> None:
    await client.post(f"/api/v1/models/{MODEL}/load", json={"dtype": "auto"})
    assert daemon.loads == [(MODEL, LoadRequest())]


async def test_a_model_that_does_not_fit(client: httpx2.AsyncClient, daemon: ScriptedDaemon) -> None:
    daemon.error = ModelDoesNotFit("needs 10 GiB, has 4 GiB: short by 6 GiB")
    response = await client.post(f"/api/v1/models/{MODEL}/load")
    assert response.status_code == 507
    assert response.json()["error"]["code"] == "model_does_not_fit"
    assert "short by 6 GiB" in response.json()["error"]["message"]
    assert response.headers["x-should-retry"] == "false"


async def test_unload(client: httpx2.AsyncClient, daemon: ScriptedDaemon) -> None:
    response = await client.post(f"/api/v1/models/{MODEL}/unload")
    assert (response.status_code, response.json()) == (200, {"id": MODEL})
    assert daemon.unloaded == [MODEL]
    assert (await client.post("/api/v1/models/nobody/unload")).status_code == 404


async def test_plan_for_machines_that_are_not_there(client: httpx2.AsyncClient, daemon: ScriptedDaemon) -> None:
    nodes = [{"name": "big", "memory_bytes": 100}, {"name": "small", "memory_bytes": 10}]
    response = await client.post("/api/v1/plan", json={"model": MODEL, "nodes": nodes, "quant": "int4", "context": 9})
    assert response.status_code == 200
    assert daemon.loads == [(MODEL, LoadRequest(quant="int4", context_length=9))]
    assert daemon.offers is not None
    assert [(offer.name, offer.memory_bytes) for offer in daemon.offers] == [("big", 100), ("small", 10)]
    document = response.json()
    assert document["fits"] is True
    assert document["reason"] is None
    assert [(shard["node"], shard["start_layer"], shard["end_layer"]) for shard in document["shards"]] == [
        ("a", 0, 19),
        ("b", 20, 29),
    ]
    assert document["shards"][0]["memory_bytes"] == 123


async def test_plan_for_the_living_nodes_may_be_a_refusal(client: httpx2.AsyncClient, daemon: ScriptedDaemon) -> None:
    daemon.outcome = sample_refusal()
    response = await client.post("/api/v1/plan", json={"model": MODEL})
    assert response.status_code == 200
    assert daemon.offers is None
    assert (response.json()["fits"], response.json()["shards"]) == (False, [])
    assert response.json()["reason"] == "needs 10, a offers 4: short by 6"


def test_the_plan_document_has_the_contracts_keys() -> None:
    for outcome in (sample_plan(), sample_refusal()):
        document = plan_document(outcome)
        assert {"model", "n_layers", "strategy", "fits", "reason", "shards", "excluded"} <= document.keys()
    assert plan_document(sample_plan())["excluded"] == [{"node": "c", "node_id": "c", "reason": "offers nothing"}]


async def test_traces_say_where_the_time_went(client: httpx2.AsyncClient, daemon: ScriptedDaemon) -> None:
    names = [assignment.name for assignment in sample_plan().assignments]
    stages = tuple(StageTiming(0.25, 4.0 + index, 0.125) for index in range(len(names)))
    duration_ms = sum(one.queue_ms + one.compute_ms + one.serialize_ms for one in stages) + 1.5
    prompt, failed = StepTrace(0.0, 900.0, 0, stages), StepTrace(1.0, 2.0, 0, stages[:1])
    daemon.traced = (RequestTrace(3.0, (prompt, failed, StepTrace(10.0, duration_ms, 1, stages))),)
    document = (await client.get(f"/api/v1/models/{MODEL}/traces")).json()
    assert [stage["node"] for stage in document["stages"]] == names
    [request] = document["requests"]
    assert [step["duration_ms"] for step in request["steps"]] == [900.0, 2.0, duration_ms]
    assert [step["wire_ms"] for step in request["steps"]][1:] == [0.0, 1.5]
    summary = document["summary"]
    assert (summary["num_steps"], summary["step_ms"], summary["wire_ms"]) == (1, duration_ms, 1.5)
    assert summary["stages"] == request["steps"][2]["stages"]
    assert summary["slowest"] == f"computing on {names[-1]} takes {3.0 + len(names):.1f} ms of {duration_ms:.1f} ms"


async def test_traces_of_a_model_that_nobody_asked_yet(client: httpx2.AsyncClient) -> None:
    document = (await client.get(f"/api/v1/models/{MODEL}/traces")).json()
    assert (document["requests"], document["summary"], document["reason"]) == ([], None, None)
    assert (await client.get("/api/v1/models/nobody/traces")).status_code == 404
