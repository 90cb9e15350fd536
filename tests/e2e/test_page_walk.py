"""The status page of a real cluster in a real browser: what happens is on the page within two seconds."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page, Route, expect

from tests.daemons import Daemons, Node, wait_until

pytestmark = pytest.mark.alone

MODEL = "smollm2-135m"
SHOWN_WITHIN_MS = 2000
"""After the API of the same daemon says it."""
SCREENSHOTS = Path(__file__).with_name("screenshots")


@pytest.fixture
def watched(page: Page) -> Iterator[Page]:
    """A tab that must stay without errors."""
    problems: list[str] = []
    page.on("console", lambda message: problems.extend([message.text] if message.type in ("error", "warning") else []))
    page.on("pageerror", lambda error: problems.append(str(error)))
    yield page
    assert problems == []


def ask_greedily(route: Route) -> None:
    """The page has answers sampled, of which one in six does not name Paris."""
    body: dict[str, object] = route.request.post_data_json or {}
    route.continue_(post_data={**body, "temperature": 0})


def photograph(page: Page, name: str) -> None:
    SCREENSHOTS.mkdir(exist_ok=True)
    page.screenshot(path=SCREENSHOTS / f"{name}.png", full_page=True)


def is_seen(node: Node, name: str) -> bool:
    return node.seen().get(name) == "alive"


def rows(page: Page) -> Locator:
    return page.get_by_test_id("node-row")


def ask(page: Page, prompt: str) -> None:
    page.get_by_test_id("prompt-text").fill(prompt)
    page.get_by_test_id("prompt-text").press("Enter")


def state_of_model(node: Node) -> str:
    model = node.model(MODEL)
    return model["state"] if model else "none"


def test_a_walk_through_the_page(watched: Page, own_daemons: Daemons) -> None:
    page = watched
    node = own_daemons.start("node-a")
    page.goto(f"http://{node.http}/")
    expect(page.get_by_test_id("connection")).to_have_text("live")
    expect(rows(page)).to_have_count(1)
    for count, name in ((2, "node-b"), (3, "node-c")):
        own_daemons.start(name)
        wait_until(partial(is_seen, node, name), f"the API shows {name}")
        expect(rows(page)).to_have_count(count, timeout=SHOWN_WITHIN_MS)
    photograph(page, "1-three-nodes")

    watch_it_load(page, node)
    photograph(page, "3-ready")
    check_colours(page)

    page.route("**/v1/chat/completions", ask_greedily)
    ask(page, "What is the capital of France?")
    expect(page.get_by_test_id("answer")).to_contain_text("Paris", timeout=20_000)
    expect(page.get_by_test_id("answer-stats")).to_contain_text("tok/s", timeout=20_000)
    photograph(page, "4-answered")

    watch_a_node_die(page, node, own_daemons.nodes["node-c"])
    photograph(page, "6-on-two-nodes")
    page.emulate_media(color_scheme="dark")
    photograph(page, "7-dark")
    page.set_viewport_size({"width": 390, "height": 844})
    photograph(page, "8-phone")


def watch_it_load(page: Page, node: Node) -> None:
    """Placed, loading with its progress, then ready on thirty layers."""
    verdict = page.get_by_test_id("verdict-line")
    assert node.post(f"/api/v1/models/{MODEL}/load", {"context": 512, "slots": 4}).status_code == 202
    wait_until(lambda: state_of_model(node) == "loading", "the API says loading")
    expect(verdict).to_contain_text("LOADING", timeout=SHOWN_WITHIN_MS)
    expect(verdict).to_contain_text("% loaded")
    expect(page.get_by_test_id("shard")).to_have_count(3)
    photograph(page, "2-loading")
    wait_until(lambda: state_of_model(node) == "ready", "the API says ready", timeout_s=60)
    expect(verdict).to_contain_text(f"{MODEL} READY · 3 nodes · 30/30 layers", timeout=SHOWN_WITHIN_MS)


def check_colours(page: Page) -> None:
    """Each node has a colour of its own, in the table and on its layers, of which there are thirty."""
    shards = page.get_by_test_id("shard").all()
    hues = [shard.get_attribute("data-hue") for shard in shards]
    assert len(set(hues)) == 3
    assert {row.get_attribute("data-hue") for row in rows(page).all()} == set(hues)
    colours = [shard.evaluate("one => getComputedStyle(one).backgroundColor") for shard in shards]
    assert len(set(colours)) == 3, colours
    assert sum(int(shard.evaluate("one => one.style.getPropertyValue('--layers')")) for shard in shards) == 30
    widths = [shard.evaluate("one => one.getBoundingClientRect().width") for shard in shards]
    assert min(widths) > 100


def watch_a_node_die(page: Page, node: Node, victim: Node) -> None:
    """In mid-answer: the answer says who is lost, the table and the verdict follow, the model moves."""
    ask(page, "Write a long story about a lighthouse keeper and the sea.")
    expect(page.get_by_test_id("answer")).to_have_text(re.compile(r"(?!.*Paris).{20,}", re.DOTALL), timeout=20_000)
    victim.kill()
    wait_until(lambda: node.seen()[victim.name] == "dead", "the API says dead", timeout_s=2.0)
    expect(rows(page).filter(has_text=victim.name)).to_contain_text("dead", timeout=SHOWN_WITHIN_MS)
    expect(page.get_by_test_id("prompt-failure")).to_contain_text(victim.name, timeout=5_000)
    photograph(page, "5-node-lost")
    wait_until(lambda: state_of_model(node) == "ready", "the API says ready again", timeout_s=60)
    expect(page.get_by_test_id("verdict-line")).to_contain_text(
        "READY · 2 nodes · 30/30 layers", timeout=SHOWN_WITHIN_MS
    )
