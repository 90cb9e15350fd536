"""Several models within the memory of real nodes: loaded when somebody asks for them, evicted when nobody does."""

from __future__ import annotations

import json
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import pytest

from exo_lite.store.manifest import MANIFEST_FILE
from exo_lite.store.model_store import ModelStore
from tests.daemons import Daemons, Node, Stream, run_cli, wait_until

ORIGINAL = "smollm2-135m"
ALPHA, BETA, GAMMA = "alpha", "beta", "gamma"
ROOM_FOR_ONE, ROOM_FOR_TWO = "700MiB", "1350MiB"
SMALL: dict[str, Any] = {"quant": "int8", "context": 256, "slots": 2}
COMPLETIONS = "/v1/completions"


@pytest.fixture(scope="module")
def alike(tmp_path_factory: pytest.TempPathFactory, smollm2_store: ModelStore) -> Path:
    """A models folder with three models that differ in name only, without a copy of their weights."""
    original = smollm2_store.get(ORIGINAL).path
    folder = tmp_path_factory.mktemp("alike")
    for name in (ALPHA, BETA, GAMMA):
        shutil.copytree(original, folder / name, copy_function=_link)
        manifest = json.loads((original / MANIFEST_FILE).read_text(encoding="utf-8"))
        (folder / name / MANIFEST_FILE).unlink()
        (folder / name / MANIFEST_FILE).write_text(json.dumps({**manifest, "id": name}), encoding="utf-8")
    return folder


def _link(source: str, target: str) -> None:
    Path(target).symlink_to(source)


def start(daemons: Daemons, alike: Path, *names: str, memory: str, keep_alive: str = "5m") -> list[Node]:
    flags = ["--models-dir", str(alike), "--keep-alive", keep_alive]
    nodes = [daemons.start(name, memory=memory, flags=flags) for name in names]
    daemons.wait_joined()
    return nodes


def request_body(model: str, **options: object) -> dict[str, object]:
    return {"model": model, "prompt": "Once upon a time", "temperature": 0, "max_tokens": 4, **options}


def ask(node: Node, model: str, **options: object) -> httpx2.Response:
    return node.post(COMPLETIONS, request_body(model, **options))


def answered(node: Node, model: str, **options: object) -> str:
    reply = ask(node, model, **options)
    assert reply.status_code == 200, reply.text
    text: str = reply.json()["choices"][0]["text"]
    return text


def loaded(node: Node) -> dict[str, dict[str, Any]]:
    return {model["id"]: model for model in node.state()["models"]}


def texts(node: Node) -> list[str]:
    return [event["text"] for event in node.state()["events"]]


def test_a_request_loads_its_model_and_others_share_the_load(own_daemons: Daemons, alike: Path) -> None:
    """From both nodes at once, streamed and not."""
    nodes = start(own_daemons, alike, "a", "b", memory=ROOM_FOR_ONE)
    streams = [Stream(node, COMPLETIONS, request_body(ALPHA)) for node in nodes]
    with ThreadPoolExecutor() as pool:
        answers = list(pool.map(lambda node: answered(node, ALPHA), [*nodes, *nodes]))
    for stream in streams:
        stream.join()
        assert stream.is_done
    assert len(set(answers)) == 1
    assert [model["epoch"] for model in loaded(nodes[0]).values()] == [1]
    assert loaded(nodes[0])[ALPHA]["keep_alive_s"] == 300
    for node in nodes:
        [placed] = [text for text in texts(node) if "placed on" in text]
        assert placed.startswith("alpha placed on")
        assert placed.endswith("because a request asked for it")


def test_the_least_recently_used_is_evicted_for_another_and_it_is_said_why(own_daemons: Daemons, alike: Path) -> None:
    [node] = start(own_daemons, alike, "a", memory=ROOM_FOR_TWO)
    answered(node, ALPHA)
    answered(node, BETA)
    before = loaded(node)
    answered(node, ALPHA)
    wait_until(lambda: loaded(node)[BETA]["idle_s"] > loaded(node)[ALPHA]["idle_s"], "beta is idle for longer")
    answered(node, GAMMA)
    after = loaded(node)
    assert sorted(after) == [ALPHA, GAMMA]
    assert after[ALPHA]["epoch"] == before[ALPHA]["epoch"]
    assert "beta was evicted to make room for gamma" in texts(node)


def test_neither_a_busy_nor_a_pinned_model_is_evicted_and_the_refusal_says_so(
    own_daemons: Daemons, alike: Path
) -> None:
    [node] = start(own_daemons, alike, "a", memory=ROOM_FOR_ONE)
    answered(node, ALPHA)
    stream = Stream(node, COMPLETIONS, request_body(ALPHA, max_tokens=150, ignore_eos=True))
    stream.wait_tokens(3)
    refused = ask(node, BETA)
    assert (refused.status_code, refused.json()["error"]["code"]) == (507, "model_does_not_fit")
    message = refused.json()["error"]["message"]
    assert "short by" in message
    assert "alpha stays loaded: it has requests." in message
    stream.join()
    assert stream.is_done

    node.load(ALPHA)
    wait_until(lambda: loaded(node)[ALPHA]["keep_alive_s"] is None, "alpha is pinned")
    pinned = ask(node, BETA)
    assert (pinned.status_code, "alpha is pinned and stays loaded" in pinned.text) == (507, True)
    assert loaded(node)[ALPHA]["state"] == "ready"
    assert node.post(f"/api/v1/models/{ALPHA}/load", {"keep_alive": "5m"}).status_code == 202
    answered(node, BETA)
    assert sorted(loaded(node)) == [BETA]


def test_models_leave_after_their_time(own_daemons: Daemons, alike: Path) -> None:
    """The node's default, a request's own, and none for what somebody loaded."""
    [node] = start(own_daemons, alike, "a", memory=ROOM_FOR_TWO, keep_alive="3s")
    node.load(ALPHA, **SMALL)
    answered(node, BETA)
    wait_until(lambda: sorted(loaded(node)) == [ALPHA], "beta is evicted")
    assert "beta was evicted: idle for 3 s" in texts(node)
    answered(node, BETA, keep_alive="1h")
    assert loaded(node)[BETA]["keep_alive_s"] == 3600
    answered(node, BETA, keep_alive=0)
    wait_until(lambda: sorted(loaded(node)) == [ALPHA], "beta is evicted at once")
    assert "beta was evicted: idle" in texts(node)
    answered(node, ALPHA, keep_alive=0)
    assert loaded(node)[ALPHA]["keep_alive_s"] is None
    assert len(node.worker_pids()) == 1


def test_answers_go_on_while_another_model_loads(own_daemons: Daemons, alike: Path) -> None:
    nodes = start(own_daemons, alike, "a", "b", memory=ROOM_FOR_TWO)
    nodes[0].load(ALPHA, **SMALL)
    alone = answered(nodes[1], ALPHA, max_tokens=24)
    epoch = loaded(nodes[0])[ALPHA]["epoch"]
    is_loaded = threading.Event()
    seen: list[str] = []

    def keep_asking() -> None:
        while not is_loaded.is_set():
            seen.append(answered(nodes[1], ALPHA, max_tokens=24))

    asking = threading.Thread(target=keep_asking)
    asking.start()
    wait_until(lambda: bool(seen), "an answer")
    num_before = len(seen)
    done = run_cli("run", BETA, "Hi", "--max-tokens", "2", "--keep-alive", "1h", "--http", nodes[0].http)
    is_loaded.set()
    asking.join()
    assert done.returncode == 0, done.stderr
    assert "loading beta" in done.stderr
    assert len(seen) > num_before + 1
    assert set(seen) == {alone}
    assert loaded(nodes[0])[ALPHA]["epoch"] == epoch
    assert loaded(nodes[0])[BETA]["keep_alive_s"] == 3600


def test_a_client_that_goes_away_while_it_waits_leaves_no_trace(own_daemons: Daemons, alike: Path) -> None:
    [node] = start(own_daemons, alike, "a", memory=ROOM_FOR_ONE, keep_alive="0")
    with pytest.raises(httpx2.ReadTimeout):
        node.client.post(f"http://{node.http}{COMPLETIONS}", json=request_body(ALPHA), timeout=0.05)
    began_s = time.monotonic()
    wait_until(lambda: "alpha was evicted: idle" in texts(node), "alpha is loaded, and evicted")
    assert time.monotonic() - began_s < 30
    assert not node.worker_pids()
