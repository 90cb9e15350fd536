from __future__ import annotations

import re
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import ConsoleMessage, Locator, Page, Request, expect

from exo_lite.domain.step import StageTiming
from exo_lite.domain.trace import RequestTrace, StepTrace
from tests.e2e.scripted_cluster import (
    MODEL,
    Document,
    ScriptedCluster,
    event_document,
    model_document,
    node_document,
    shard_document,
    state_document,
    used_memory,
)

SHOWN_WITHIN_MS = 2000
"""The promise: what happens in the cluster is on the page within two seconds."""
HOSTILE = "<img src=x onerror=alert(1)><b>\"'&amp;"
TO = "\u2013"
"""The dash of a range of layers."""
RANGES = (("a", 0, 9), ("b", 10, 19), ("c", 20, 29))


@pytest.fixture
def cluster() -> Iterator[ScriptedCluster]:
    played = ScriptedCluster()
    played.start()
    yield played
    played.stop()


@pytest.fixture
def status(page: Page, cluster: ScriptedCluster) -> Iterator[Page]:
    """The open page. It must stay on loopback and free of errors, but for those of a daemon that is away."""
    problems: list[str] = []
    page.on("console", lambda message: problems.extend(_problem(message)))
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("request", lambda request: problems.extend(_foreign(request)))
    page.on("dialog", lambda dialog: problems.append(f"a dialog: {dialog.message}"))
    page.goto(cluster.url)
    expect(connection(page)).to_have_text("live")
    yield page
    assert problems == []


def _problem(message: ConsoleMessage) -> list[str]:
    is_away = "ERR_CONNECTION_REFUSED" in message.text or "ERR_INCOMPLETE_CHUNKED" in message.text
    return [message.text] if message.type in ("error", "warning") and not is_away else []


def _foreign(request: Request) -> list[str]:
    return [] if urlsplit(request.url).hostname == "127.0.0.1" else [f"a request to {request.url}"]


def connection(page: Page) -> Locator:
    return page.get_by_test_id("connection")


def verdict(page: Page) -> Locator:
    return page.get_by_test_id("verdict-line")


def three_nodes() -> list[Document]:
    nodes = [node_document("a", is_self=True), node_document("b"), node_document("c")]
    return [used_memory(node, weights_mib=130, kv_mib=96) for node in nodes]


def ready_cluster(**changed: object) -> Document:
    shards = [shard_document(*shard) for shard in RANGES]
    model = model_document("ready", shards, tokens_per_second=11.4, requests={"running": 2, "waiting": 1}, **changed)
    events = [
        event_document(1_795_000_000, "node_joined", "node-b (192.168.1.98:52414) joined"),
        event_document(1_795_000_001, "node_joined", "node-c (192.168.1.99:52414) joined"),
        event_document(1_795_000_009, "model_ready", f"{MODEL} is ready: a token went through every hop"),
    ]
    return state_document(three_nodes(), [model], events)


def loading_cluster(progress: float) -> Document:
    shards = [shard_document("a", 0, 9), *(shard_document(*one, "loading", progress) for one in RANGES[1:])]
    return state_document(three_nodes(), [model_document("loading", shards)])


def degraded_cluster() -> Document:
    nodes = [*three_nodes()[:2], node_document("c", state="dead", heartbeat_age_s=4.2)]
    shards = [*(shard_document(*one) for one in RANGES[:2]), shard_document("c", 20, 29, "lost")]
    model = model_document("degraded", shards, reason="node-c is lost: layers 20 to 29 are moving to node-a, node-b")
    lost = event_document(
        1_795_000_100, "node_lost", "node-c (192.168.1.99:52414) is lost", "start it again: exo-lite node"
    )
    return state_document(nodes, [model], [*ready_cluster()["events"], lost])


def test_nodes_join_a_model_loads_and_a_node_dies(status: Page, cluster: ScriptedCluster) -> None:
    expect(verdict(status)).to_contain_text("No model loaded")
    expect(verdict(status)).to_contain_text("exo-lite load MODEL")
    rows = status.get_by_test_id("node-row")
    expect(rows).to_have_count(1)

    cluster.show(state_document([node_document("a", is_self=True), node_document("b")]))
    expect(rows).to_have_count(2, timeout=SHOWN_WITHIN_MS)
    cluster.show(state_document(three_nodes()))
    expect(rows).to_have_count(3, timeout=SHOWN_WITHIN_MS)
    expect(rows.nth(0)).to_contain_text("this node")
    expect(rows.nth(1)).to_contain_text("192.168.1.98:52414")
    expect(rows.nth(1)).to_contain_text("290 MiB of 6.0 GiB")

    cluster.show(loading_cluster(0.25))
    expect(verdict(status)).to_contain_text("LOADING", timeout=SHOWN_WITHIN_MS)
    shards = status.get_by_test_id("shard")
    expect(shards).to_have_count(3)
    expect(shards.nth(1)).to_contain_text("loading 25 %")
    cluster.show(loading_cluster(0.75))
    expect(shards.nth(1)).to_contain_text("loading 75 %", timeout=SHOWN_WITHIN_MS)

    cluster.show(ready_cluster())
    words = f"{MODEL} READY · 3 nodes · 30/30 layers · 11.4 tok/s · 2 running, 1 waiting"
    expect(verdict(status)).to_have_text(words, timeout=SHOWN_WITHIN_MS)
    expect(shards.nth(1)).to_have_text(f"node-b 10{TO}19 (10) 130 MiB")
    expect(status.get_by_test_id("stage").nth(1)).to_contain_text("compute 3.1 ms")

    cluster.show(degraded_cluster())
    expect(verdict(status)).to_contain_text("DEGRADED · 2 nodes · 20/30 layers", timeout=SHOWN_WITHIN_MS)
    expect(shards.nth(2)).to_have_attribute("data-state", "lost")
    expect(shards.nth(2)).to_contain_text("lost")
    expect(rows.nth(2)).to_contain_text("dead")
    expect(status.get_by_test_id("event").first).to_contain_text("Fix: start it again: exo-lite node")
    expect(status.get_by_test_id("announcement")).to_contain_text("degraded")


def test_a_broken_link_stands_below_the_nodes_while_it_is_broken(status: Page, cluster: ScriptedCluster) -> None:
    note = {"kind": "link_broken", "text": "node-a and node-c cannot reach each other", "fix": "open the ports"}
    cluster.show({**ready_cluster(), "notes": [note]})
    notes = status.get_by_test_id("note")
    expect(notes).to_have_count(1, timeout=SHOWN_WITHIN_MS)
    expect(notes.first).to_contain_text("node-a and node-c cannot reach each other")
    expect(notes.first).to_contain_text("Fix: open the ports")
    cluster.show({**ready_cluster(), "notes": []})
    expect(notes).to_have_count(0, timeout=SHOWN_WITHIN_MS)


def test_the_prompt_box_streams_an_answer_with_its_speed(status: Page, cluster: ScriptedCluster) -> None:
    cluster.show(ready_cluster())
    expect(status.get_by_test_id("prompt-model")).to_have_value(MODEL)
    status.get_by_test_id("prompt-text").fill("Say hello")
    status.get_by_test_id("prompt-text").press("Enter")
    expect(status.get_by_test_id("answer")).to_have_text("Hello from three machines.")
    stats = status.get_by_test_id("answer-stats")
    expect(stats).to_have_text(re.compile(r"^27 tokens · [\d.]+ tok/s · first token after [\d.]+ s$"))
    expect(status.get_by_test_id("prompt-stop")).to_be_hidden()
    expect(status.get_by_test_id("prompt-send")).to_be_enabled()


def test_stop_cancels_on_the_daemon(status: Page, cluster: ScriptedCluster) -> None:
    cluster.hold_at = 5
    cluster.show(ready_cluster())
    status.get_by_test_id("prompt-text").fill("Say hello")
    status.get_by_test_id("prompt-send").click()
    expect(status.get_by_test_id("answer")).to_have_text("Hello")
    status.get_by_test_id("prompt-stop").click()
    assert cluster.was_cancelled.wait(5)
    expect(status.get_by_test_id("answer-stats")).to_contain_text("stopped · 5 tokens")
    expect(status.get_by_test_id("answer")).to_have_text("Hello")


def test_a_refused_prompt_says_why(page: Page, cluster: ScriptedCluster) -> None:
    cluster.show(loading_cluster(0.5))
    page.goto(cluster.url)
    expect(page.get_by_test_id("prompt-model")).to_have_value(MODEL)
    page.get_by_test_id("prompt-text").fill("Say hello")
    page.get_by_test_id("prompt-send").click()
    expect(page.get_by_test_id("prompt-failure")).to_have_text(f"{MODEL} is loading")
    expect(page.get_by_test_id("prompt-send")).to_be_enabled()


def test_a_lost_daemon_makes_the_page_stale_until_it_is_back(status: Page, cluster: ScriptedCluster) -> None:
    cluster.show(ready_cluster())
    expect(verdict(status)).to_contain_text("READY")
    cluster.stop()
    expect(connection(status)).to_have_text(re.compile(r"stale · \d+ s old"), timeout=SHOWN_WITHIN_MS)
    expect(verdict(status)).to_contain_text("READY")
    cluster.show(degraded_cluster())
    cluster.start()
    expect(connection(status)).to_have_text("live")
    expect(verdict(status)).to_contain_text("DEGRADED")


def test_names_from_the_network_are_text(status: Page, cluster: ScriptedCluster) -> None:
    node = node_document("b", name=HOSTILE, address=HOSTILE, version=HOSTILE)
    shard = {**shard_document("b", 0, 29), "node": HOSTILE}
    model = model_document("ready", [shard], id=HOSTILE, reason=HOSTILE, dtype=HOSTILE)
    cluster.show(state_document([node], [model], [event_document(0, HOSTILE, HOSTILE, HOSTILE)]))
    expect(status.get_by_test_id("node-row")).to_contain_text(HOSTILE)
    expect(verdict(status)).to_contain_text(HOSTILE)
    expect(status.get_by_test_id("shard")).to_contain_text(HOSTILE)
    expect(status.get_by_test_id("event")).to_contain_text(HOSTILE)
    assert status.locator("main img, main b:not([data-part])").count() == 0


def test_a_peer_that_is_not_reached_is_shown_with_cause_and_fix(status: Page, cluster: ScriptedCluster) -> None:
    peer = {"node_id": "b", "name": HOSTILE, "address": "10.0.0.2:52414", "seen_by": "node-a", "since_s": 12.0}
    why = {"reason": "TCP port 52414 of 10.0.0.2 does not answer", "fix": "let 52414/tcp in"}
    shown = status.get_by_test_id("unreached")
    cluster.show({**ready_cluster(), "unreached": [{**peer, **why}]})
    expect(shown).to_contain_text(f"{HOSTILE} (10.0.0.2:52414): TCP port 52414 of 10.0.0.2 does not answer")
    expect(shown).to_contain_text("Fix: let 52414/tcp in")
    cluster.show({**ready_cluster(), "unreached": []})
    expect(shown).to_have_count(0)


def test_updates_disturb_neither_selection_nor_typing(status: Page, cluster: ScriptedCluster) -> None:
    cluster.show(ready_cluster())
    expect(verdict(status)).to_contain_text("READY")
    text = status.get_by_test_id("prompt-text")
    text.fill("half a ques")
    status.get_by_test_id("node-row").nth(1).locator(".name").select_text()
    cluster.show(degraded_cluster())
    expect(verdict(status)).to_contain_text("DEGRADED", timeout=SHOWN_WITHIN_MS)
    assert status.evaluate("String(getSelection())") == "node-b"
    expect(text).to_have_value("half a ques")


def test_gaps_are_shown_as_missing(status: Page, cluster: ScriptedCluster) -> None:
    cluster.show(state_document(three_nodes(), [model_document("degraded", [shard_document("b", 10, 19)])]))
    states = [("missing", f"0{TO}9 (10)"), ("ready", f"10{TO}19 (10)"), ("missing", f"20{TO}29 (10)")]
    shards = status.get_by_test_id("shard")
    expect(shards).to_have_count(3)
    for index, (state, label) in enumerate(states):
        expect(shards.nth(index)).to_have_attribute("data-state", state)
        expect(shards.nth(index)).to_contain_text(label)


def test_the_key_is_asked_for_and_kept_in_the_tab(page: Page) -> None:
    cluster = ScriptedCluster(api_key="open sesame")
    cluster.show(ready_cluster())
    cluster.start()
    try:
        page.goto(cluster.url)
        expect(page.get_by_test_id("key-dialog")).to_be_visible()
        page.get_by_test_id("key-input").fill("wrong")
        page.get_by_test_id("key-submit").click()
        expect(page.get_by_test_id("key-dialog")).to_contain_text("did not accept")
        page.get_by_test_id("key-input").fill("open sesame")
        page.get_by_test_id("key-submit").click()
        expect(page.get_by_test_id("key-dialog")).to_be_hidden()
        expect(verdict(page)).to_contain_text("READY")
        page.reload()
        expect(verdict(page)).to_contain_text("READY")
    finally:
        cluster.stop()


@pytest.mark.parametrize("width", [390, 1440])
def test_nothing_is_wider_than_the_screen(status: Page, cluster: ScriptedCluster, width: int) -> None:
    status.set_viewport_size({"width": width, "height": 900})
    for document in (ready_cluster(), loading_cluster(0.4), degraded_cluster()):
        cluster.show(document)
        expect(verdict(status)).to_contain_text(document["models"][0]["state"].upper())
        assert status.evaluate("document.documentElement.scrollWidth") <= width


def test_where_the_time_goes_is_shown_once_an_answer_has_ended(status: Page, cluster: ScriptedCluster) -> None:
    asked: list[str] = []
    status.on("request", lambda request: asked.extend([request.url] if request.url.endswith("/traces") else []))
    trace = status.get_by_test_id("trace")
    cluster.show(ready_cluster())
    expect(status.get_by_test_id("stage")).to_have_count(3)
    expect(trace).to_be_hidden()  # nothing has been computed yet

    stages = (StageTiming(0.1, 4.0, 0.1), StageTiming(0.2, 9.0, 0.1), StageTiming(0.1, 5.0, 0.0))
    cluster.traced = (RequestTrace(3.0, (StepTrace(0.0, 20.0, 1, stages),)),)
    for _ in range(5):
        cluster.show(served(running=1))
        expect(status.get_by_test_id("verdict-line")).to_contain_text("1 running", timeout=SHOWN_WITHIN_MS)
        cluster.show(served(running=0))
        expect(status.get_by_test_id("verdict-line")).not_to_contain_text("1 running", timeout=SHOWN_WITHIN_MS)
    expect(trace).to_contain_text("computing on node-b takes 9.0 ms of 20.0 ms", timeout=3 * SHOWN_WITHIN_MS)
    expect(trace).to_contain_text("192 of 300 prompt tokens were cached")
    expect(trace).to_contain_text("30 of 40 guessed tokens were right")
    parts = trace.get_by_test_id("trace-part")
    expect(parts).to_have_count(10)  # three of each stage, and the wire
    widths = [float(parts.nth(index).evaluate("part => part.getBoundingClientRect().width")) for index in (1, 4, 9)]
    assert widths[1] / widths[0] == pytest.approx(9.0 / 4.0, rel=0.1)
    assert widths[2] / widths[0] == pytest.approx(1.4 / 4.0, rel=0.1)
    assert len(asked) < 6  # fewer than there were answers: not more than one in two seconds

    cluster.traced = ()
    cluster.show(served(running=0, epoch=5))
    expect(trace).not_to_contain_text("node-b", timeout=SHOWN_WITHIN_MS)  # another placement, not measured yet


def served(*, running: int, epoch: int = 4) -> Document:
    """A ready model that has saved some work."""
    shards = [shard_document(*shard) for shard in RANGES]
    model = model_document(
        "ready",
        shards,
        requests={"running": running, "waiting": 0},
        epoch=epoch,
        prefix_cache={"enabled": True, "prompt_tokens": 300, "cached_tokens": 192, "kept_blocks": 4},
        speculation={"enabled": True, "proposed_tokens": 40, "accepted_tokens": 30},
    )
    return state_document(three_nodes(), [model])
