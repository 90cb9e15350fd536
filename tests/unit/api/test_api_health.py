from __future__ import annotations

from collections.abc import Callable

import httpx2
import openai
from prometheus_client.parser import text_string_to_metric_families

from exo_lite.api.app import create_app
from tests.unit.api.scripted_daemon import MODEL, STATE, ScriptedDaemon

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


async def scrape(client: httpx2.AsyncClient) -> Samples:
    text = (await client.get("/metrics")).text
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def labels(**values: str) -> frozenset[tuple[str, str]]:
    return frozenset(values.items())


async def test_health_says_only_that_the_daemon_lives(client: httpx2.AsyncClient, daemon: ScriptedDaemon) -> None:
    daemon.not_ready = "no model is loaded"
    assert (await client.get("/health")).json() == {"status": "ok"}
    assert (await client.head("/health")).status_code == 200


async def test_readyz_gives_the_reason(client: httpx2.AsyncClient, daemon: ScriptedDaemon) -> None:
    assert (await client.get("/readyz")).status_code == 200
    daemon.not_ready = "layers 10 to 19 of demo-model are lost"
    response = await client.get("/readyz")
    assert response.status_code == 503
    assert response.json()["error"]["message"] == daemon.not_ready
    assert "retry-after" in response.headers


async def test_cluster_gauges_come_from_the_state(client: httpx2.AsyncClient) -> None:
    samples = await scrape(client)
    assert samples["exo_lite_num_requests_running", labels(model=MODEL)] == 2
    assert samples["exo_lite_num_requests_waiting", labels(model=MODEL)] == 1
    assert samples["exo_lite_peer_up", labels(node="node-n2", node_id="n2")] == 1
    assert samples["exo_lite_peer_up", labels(node="node-n3", node_id="n3")] == 0
    assert ("exo_lite_peer_up", labels(node="node-n1", node_id="n1")) not in samples
    assert samples["exo_lite_node_memory_bytes", labels(node="node-n1", node_id="n1", kind="weights")] == 300
    assert samples["exo_lite_kv_blocks", labels(model=MODEL, kind="free")] == 9
    assert samples["exo_lite_prefix_cache_hits_total", labels(model=MODEL)] == 640
    assert samples["exo_lite_spec_decode_num_accepted_tokens_total", labels(model=MODEL)] == 30
    assert samples["exo_lite_node_layers", labels(node="node-n1", node_id="n1", model=MODEL)] == 30


async def test_a_cluster_without_models_can_be_scraped(client: httpx2.AsyncClient, daemon: ScriptedDaemon) -> None:
    daemon.document = {**STATE, "models": []}
    assert (await client.get("/metrics")).status_code == 200


async def test_requests_are_counted_and_timed(daemon: ScriptedDaemon, ticking_clock: Callable[[], float]) -> None:
    app = create_app(daemon, api_key=None, allowed_hosts=["x"], clock=ticking_clock)
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://x") as client:
        answer = (await client.post("/v1/completions", json={"model": MODEL, "prompt": "ab"})).json()
        samples = await scrape(client)
    assert samples["exo_lite_prompt_tokens_total", labels()] == 3
    assert samples["exo_lite_generation_tokens_total", labels()] == 6
    assert samples["exo_lite_request_success_total", labels(finished_reason="stop")] == 1
    assert samples["exo_lite_time_to_first_token_seconds_count", labels()] == 1
    assert samples["exo_lite_inter_token_latency_seconds_count", labels()] == 5
    assert samples["exo_lite_e2e_request_latency_seconds_count", labels()] == 1
    # Every look at the clock is a second and each token is looked at twice: by the metrics and by the timings.
    timings = answer["timings"]
    assert (timings["prompt_n"], timings["predicted_n"]) == (3, 6)
    assert (timings["prompt_ms"], timings["predicted_ms"]) == (3000, 10000)
    assert timings["predicted_per_second"] == 0.5
    assert (timings["cache_n"], timings["prompt_per_second"]) == (0, 1.0)
    assert (timings["prompt_per_token_ms"], timings["predicted_per_token_ms"]) == (1000, 2000)


async def test_models(client: httpx2.AsyncClient, sdk: openai.AsyncOpenAI) -> None:
    assert [model.id async for model in sdk.models.list()] == [MODEL, "org/other"]
    for name in (MODEL, "demo", "org/other", "org%2Fother"):
        document = (await client.get(f"/v1/models/{name}")).json()
        assert document["object"] == "model"
        assert isinstance(document["created"], int)
        assert document["context_length"] == document["max_model_len"]
    assert (await sdk.models.retrieve("demo")).id == MODEL
    response = await client.get("/v1/models/nobody")
    assert response.status_code == 404
    assert response.json()["error"]["code"] == "model_not_found"
