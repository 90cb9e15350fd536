from __future__ import annotations

import json
from collections.abc import AsyncIterator

import httpx2
import pytest

from exo_lite.api.app import create_app
from exo_lite.api.gate import MAX_BODY_BYTES
from exo_lite.api.limits import HttpLimits
from exo_lite.api.page import page_files
from exo_lite.domain.errors import InvalidRequest
from tests.unit.api.asgi_call import asgi_call
from tests.unit.api.scripted_daemon import MODEL, ScriptedDaemon

KEY = {"Authorization": "Bearer the-key"}
ASK = {"model": MODEL, "prompt": "a"}


PROTECTED = [
    ("GET", "/readyz"),
    ("HEAD", "/readyz"),
    ("GET", "/metrics"),
    ("GET", "/v1/models"),
    ("GET", f"/v1/models/{MODEL}"),
    ("POST", "/v1/chat/completions"),
    ("POST", "/v1/completions"),
    ("GET", "/api/v1/state"),
    ("GET", "/api/v1/events"),
    ("POST", "/api/v1/plan"),
    ("POST", f"/api/v1/models/{MODEL}/load"),
    ("POST", f"/api/v1/models/{MODEL}/unload"),
    ("GET", "/openapi.json"),
    ("GET", "/no/such/path"),
    ("GET", "/health/"),
    ("OPTIONS", "/v1/models"),
]


async def test_every_route_but_health_and_the_page_wants_the_key(locked_client: httpx2.AsyncClient) -> None:
    for method, path in PROTECTED:
        response = await locked_client.request(method, path)
        assert (response.status_code, path) == (401, path)
        assert response.headers["www-authenticate"] == "Bearer"
        assert method == "HEAD" or response.json()["error"]["code"] == "unauthorized"


async def test_health_and_the_page_are_open(locked_client: httpx2.AsyncClient) -> None:
    for path in ("/health", *page_files()):
        assert (await locked_client.get(path)).status_code == 200
        assert (await locked_client.post(path)).status_code == 401


@pytest.mark.parametrize("value", ["Bearer wrong", "Bearer", "the-key", "Basic the-key", "Bearer the-key2", "Bearer ü"])
async def test_a_wrong_key_is_refused(locked_client: httpx2.AsyncClient, value: str) -> None:
    headers = {b"Authorization": value.encode("latin-1")}
    assert (await locked_client.get("/v1/models", headers=headers)).status_code == 401


@pytest.mark.parametrize("path", ["/v1/models", "//v1//models", "/v1//models"])
async def test_the_key_opens_and_doubled_slashes_are_tolerated(locked_client: httpx2.AsyncClient, path: str) -> None:
    assert (await locked_client.get(f"http://daemon.test{path}", headers=KEY)).status_code == 200
    assert (await locked_client.get(f"http://daemon.test{path}")).status_code == 401


async def test_a_foreign_host_sees_nothing(client: httpx2.AsyncClient) -> None:
    for path in ("/", "/health", "/api/v1/state"):
        response = await client.get(path, headers={"Host": "evil.example"})
        assert response.status_code == 403
        assert response.json()["error"]["code"] == "forbidden"


async def test_a_foreign_host_is_told_the_ways_out(client: httpx2.AsyncClient) -> None:
    response = await client.get("/v1/models", headers={"Host": "vm.local:8080"})
    for way_out in ("--allowed-host vm.local", "EXO_LITE_ALLOWED_HOST", "API key", "address"):
        assert way_out in response.json()["error"]["message"]


@pytest.mark.parametrize("host", ["vm.local", "host.docker.internal:52415", "ai.example.org", "", "[bad"])
async def test_with_the_key_any_name_of_the_machine_will_do(locked_client: httpx2.AsyncClient, host: str) -> None:
    assert (await locked_client.get("/v1/models", headers={**KEY, "Host": host})).status_code == 200
    assert (await locked_client.get("/v1/models", headers={"Host": host})).status_code == 401
    assert (await locked_client.get("/health", headers={"Host": host})).status_code == 200


@pytest.mark.parametrize("key", ["", " ", "key ", " key", "schlüssel", "a\nb", "a\x7f", "x" * 1025])
def test_a_key_that_no_header_carries_unchanged_opens_no_daemon(daemon: ScriptedDaemon, key: str) -> None:
    with pytest.raises(InvalidRequest, match="the API key"):
        create_app(daemon, api_key=key, allowed_hosts=[])


SAME_KEY = ["Bearer the-key", "bearer the-key", "BEARER   the-key", "Bearer the-key  ", "  Bearer the-key"]


async def test_the_tenant_is_the_key_however_it_is_written(
    locked_client: httpx2.AsyncClient, client: httpx2.AsyncClient, daemon: ScriptedDaemon
) -> None:
    for http in (locked_client, client):  # of an open daemon too, where a key only tells programs apart
        for value in SAME_KEY:
            response = await http.post("/v1/completions", json=ASK, headers={b"Authorization": value.encode()})
            assert (response.status_code, value) == (200, value)
    assert len({asked.tenant for asked in daemon.asked}) == 1
    await client.post("/v1/completions", json=ASK, headers={"Authorization": "Bearer another"})
    assert daemon.asked[-1].tenant not in ("", daemon.asked[0].tenant)
    for nobody in ("Bearer", "Basic the-key"):
        await client.post("/v1/completions", json=ASK, headers={"Authorization": nobody})
        assert daemon.asked[-1].tenant == ""


async def test_a_body_that_is_declared_as_nothing_is_json(client: httpx2.AsyncClient) -> None:
    response = await client.post("/v1/completions", content=json.dumps(ASK).encode())
    assert "content-type" not in response.request.headers
    assert response.status_code == 200


@pytest.mark.parametrize("kind", ["application/json; charset=utf-8", "Application/JSON", "application/x+json"])
async def test_bodies_that_are_declared_as_json(client: httpx2.AsyncClient, kind: str) -> None:
    response = await client.post("/v1/completions", content=json.dumps(ASK), headers={"Content-Type": kind})
    assert response.status_code == 200


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "text/json", "json"])
async def test_a_body_that_is_declared_as_something_else_is_told_what_to_declare(
    client: httpx2.AsyncClient, kind: str
) -> None:
    response = await client.post("/v1/completions", content=json.dumps(ASK), headers={"Content-Type": kind})
    error = response.json()["error"]
    assert (response.status_code, error["code"]) == (415, "unsupported_media_type")
    assert kind in error["message"]
    assert "'Content-Type: application/json'" in error["message"]
    response = await client.post(f"/api/v1/models/{MODEL}/load", headers={"Content-Type": kind})
    assert response.status_code == 202  # there is no body


async def test_two_lengths_of_one_body_are_refused(client: httpx2.AsyncClient, daemon: ScriptedDaemon) -> None:
    headers = {"Content-Length": "5", "Transfer-Encoding": "chunked"}
    response = await client.post("/v1/completions", content=json.dumps(ASK), headers=headers)
    assert response.status_code == 400
    assert "Transfer-Encoding" in response.json()["error"]["message"]
    assert response.headers["connection"] == "close"
    assert daemon.asked == []


async def test_a_foreign_page_may_not_call_an_open_daemon(client: httpx2.AsyncClient, daemon: ScriptedDaemon) -> None:
    response = await client.post(f"/api/v1/models/{MODEL}/unload", headers={"Origin": "http://evil.example"})
    assert response.status_code == 403
    assert daemon.unloaded == []
    response = await client.post(f"/api/v1/models/{MODEL}/unload", headers={"Origin": "http://daemon.test"})
    assert response.status_code == 200


async def test_no_cross_origin_headers(client: httpx2.AsyncClient) -> None:
    response = await client.options("/v1/models", headers={"Origin": "http://daemon.test"})
    assert response.status_code == 405
    assert not [name for name in response.headers if name.startswith("access-control")]


async def test_every_response_has_the_security_headers(client: httpx2.AsyncClient) -> None:
    for path in ("/", "/api/v1/state", "/nowhere"):
        headers = (await client.get(path)).headers
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["x-request-id"].startswith("req_")
        assert headers["cache-control"] == ("no-cache" if path == "/" else "no-store")


@pytest.mark.parametrize("is_declared", [True, False])
async def test_large_bodies_are_refused(client: httpx2.AsyncClient, is_declared: bool) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(3):
            yield b"x" * MAX_BODY_BYTES

    content = b"x" * (MAX_BODY_BYTES + 1) if is_declared else chunks()
    headers = {"Content-Type": "application/json"}
    response = await client.post("/v1/chat/completions", content=content, headers=headers)
    assert response.status_code == 413
    assert response.json()["error"]["code"] == "request_too_large"


async def test_one_request_too_many_is_told_to_come_again_and_probes_are_answered(daemon: ScriptedDaemon) -> None:
    app = create_app(daemon, api_key=None, allowed_hosts=["daemon.test"], limits=HttpLimits(requests=1))
    transport = httpx2.ASGITransport(app)
    async with (
        asgi_call(app, "/api/v1/events") as running,
        httpx2.AsyncClient(transport=transport, base_url="http://daemon.test") as client,
    ):
        await running.event()
        refused = await client.get("/api/v1/state")
        assert (refused.status_code, refused.headers["connection"]) == (503, "close")
        assert int(refused.headers["retry-after"]) >= 1
        assert "x-should-retry" not in refused.headers
        assert refused.json()["error"]["code"] == "daemon_busy"
        for path in ("/health", "/", "/metrics"):
            assert (await client.get(path)).status_code == 200
    async with httpx2.AsyncClient(transport=transport, base_url="http://daemon.test") as client:
        assert (await client.get("/api/v1/state")).status_code == 200
