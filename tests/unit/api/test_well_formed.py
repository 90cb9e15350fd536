"""Texts that are no Unicode, and numbers that no wire holds: a character instead, or a 400, and never a 500."""

from __future__ import annotations

import json

import httpx2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exo_lite.api.bodies import SHORT_BODY_BYTES
from exo_lite.api.well_formed import with_whole_characters
from exo_lite.domain.ids import ModelId
from exo_lite.transport.cluster_codec import load_request_to_proto
from exo_lite.transport.sampling_codec import sampling_to_proto
from tests.unit.api.scripted_daemon import BOS, MODEL, ScriptedDaemon

HEADERS = {"Content-Type": "application/json"}
CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
HALF, REPLACED = "\ud800", "\ufffd"


@settings(max_examples=300, deadline=None)
@given(text=st.text(st.characters(codec=None, categories=("Cs", "Lu", "Po", "So", "Zs")), max_size=12))
@pytest.mark.parametrize("ensure_ascii", [True, False])
def test_every_text_becomes_what_utf_16_makes_of_it(text: str, ensure_ascii: bool) -> None:
    content = json.dumps({"x": text, text: ["\\ud800", "\\\ud800"]}, ensure_ascii=ensure_ascii)
    mended = json.loads(with_whole_characters(content.encode("utf-8", "surrogatepass")))
    json.dumps(mended, ensure_ascii=False).encode()  # raises where half a pair is left
    if ensure_ascii:  # a pair in escapes is a character, as in every JSON
        assert mended["x"] == text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    else:
        assert mended["x"] == "".join(REPLACED if "\ud800" <= one <= "\udfff" else one for one in text)


@pytest.mark.parametrize("ensure_ascii", [True, False])
async def test_half_a_character_in_any_text_becomes_the_replacement_character(
    client: httpx2.AsyncClient, daemon: ScriptedDaemon, ensure_ascii: bool
) -> None:
    def content(body: object) -> bytes:
        return json.dumps(body, ensure_ascii=ensure_ascii).encode("utf-8", "surrogatepass")

    ask = {"model": MODEL, "prompt": f"a{HALF}", "echo": True, "stop": [f"z{HALF}"]}
    response = await client.post(COMPLETIONS, content=content(ask), headers=HEADERS)
    assert response.json()["choices"][0]["text"] == f"a{REPLACED}Hello"
    assert daemon.asked[0].token_ids == (BOS, ord("a"), ord(REPLACED))
    chat = {"model": MODEL, "messages": [{"role": "user", "content": HALF, "name": HALF}], HALF: HALF}
    response = await client.post(CHAT, content=content(chat), headers=HEADERS)
    assert response.status_code == 200
    assert ord(REPLACED) in daemon.asked[1].token_ids
    for wrong in (
        {**ask, "model": HALF},
        {**ask, "keep_alive": HALF},
        {**ask, "logit_bias": {HALF: 1}},
        {**chat, "messages": [{"role": HALF, "content": HALF}]},
        {**chat, "chat_template_kwargs": HALF},
    ):
        path = CHAT if "messages" in wrong else COMPLETIONS
        response = await client.post(path, content=content(wrong), headers=HEADERS)
        assert response.status_code in (400, 404)
        assert response.json()["error"]["message"]
    for path in (f"/api/v1/models/{MODEL}/load", "/api/v1/plan"):
        response = await client.post(path, content=content({"quant": HALF, "model": HALF}), headers=HEADERS)
        assert response.status_code == 400


async def test_long_bodies_are_mended_too(client: httpx2.AsyncClient, daemon: ScriptedDaemon) -> None:
    body = {"model": MODEL, "prompt": HALF, "user": "x" * SHORT_BODY_BYTES}
    await client.post(COMPLETIONS, content=json.dumps(body), headers=HEADERS)
    assert daemon.asked[0].token_ids == (BOS, ord(REPLACED))


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
async def test_a_body_in_another_encoding_is_refused(client: httpx2.AsyncClient, encoding: str) -> None:
    content = json.dumps({"model": MODEL, "prompt": "a"}).encode(encoding)
    response = await client.post(COMPLETIONS, content=content, headers=HEADERS)
    assert (response.status_code, response.json()["error"]["code"]) == (400, "invalid_request")


NUMBERS = [
    *("n", "max_tokens", "temperature", "top_p", "top_k", "min_p", "repetition_penalty", "presence_penalty"),
    *("frequency_penalty", "seed", "min_tokens", "timeout", "keep_alive", "logprobs", "best_of"),
]
EXTREMES = [-1, -(2**31) - 1, 2**31, 2**32, 2**63, 2**64, 10**400, -(10**400), 1e308, -1e308, 5e-324]


@pytest.mark.parametrize("name", NUMBERS)
async def test_numbers_that_no_wire_holds_are_refused_by_name(
    client: httpx2.AsyncClient, daemon: ScriptedDaemon, name: str
) -> None:
    for value in EXTREMES:
        response = await client.post(COMPLETIONS, json={"model": MODEL, "prompt": "a", name: value})
        assert response.status_code in (200, 400), (name, value)
        if response.status_code == 400:
            assert response.json()["error"]["param"] == name
    for asked in daemon.asked:  # whatever was taken can travel
        sampling_to_proto(asked.sampling)


@pytest.mark.parametrize("value", ["1e999", "NaN", "-Infinity", "1" * 5000])
@pytest.mark.parametrize("name", NUMBERS)
async def test_what_json_has_no_number_for_is_refused(client: httpx2.AsyncClient, name: str, value: str) -> None:
    content = f'{{"model": "{MODEL}", "prompt": "a", "{name}": {value}}}'
    response = await client.post(COMPLETIONS, content=content, headers=HEADERS)
    assert response.status_code == 400 or name == "seed"
    assert response.status_code != 500


@pytest.mark.parametrize("name", ["context", "slots", "keep_alive"])
async def test_so_are_those_of_loads(client: httpx2.AsyncClient, daemon: ScriptedDaemon, name: str) -> None:
    for value in EXTREMES:
        response = await client.post(f"/api/v1/models/{MODEL}/load", json={name: value})
        assert response.status_code in (202, 400), (name, value)
    for model, request in daemon.loads:
        load_request_to_proto(ModelId(model), request)


async def test_token_ids_that_no_wire_holds(client: httpx2.AsyncClient, daemon: ScriptedDaemon) -> None:
    for value in [*EXTREMES, 1.5, True]:
        response = await client.post(COMPLETIONS, json={"model": MODEL, "prompt": [value]})
        assert response.status_code == 400, value
    assert daemon.asked == []
