"""Nodes that compute in different ways: each says how, and a model that they share is not called exact."""

from __future__ import annotations

import pytest

from tests.conftest import DEMO_MODEL
from tests.daemons import Daemons, Node, wait_until

NO_COMPILER = "export CC=false"


def numerics(node: Node) -> dict[str, str | None]:
    return {one["name"]: one["engine"]["numerics"] for one in node.state()["nodes"]}


@pytest.mark.timeout(240)
def test_a_model_on_unequal_engines_works_and_says_that_it_is_not_exact(own_daemons: Daemons):
    first = own_daemons.start("first")
    second = own_daemons.start("second", shell=NO_COMPILER)
    wait_until(lambda: len(first.seen()) == 2, "both are there")
    wait_until(lambda: None not in numerics(first).values(), "both have tried their engine", timeout_s=60.0)
    found = numerics(first)
    assert found["first"] == "torch-c/c"
    assert (found["second"] or "").startswith("torch-c/torch ")
    model = first.load(DEMO_MODEL, quant="int8", context=256, slots=2, timeout_s=120.0)
    assert [shard["numerics"] for shard in model["shards"]] == [found[shard["node"]] for shard in model["shards"]]
    assert len(set(found.values())) == len(model["shards"]) == 2
    assert (model["exact"], model["speculation"]["enabled"]) == (False, False)
    said = "once upon a time there was " * 6
    answer = first.post("/v1/completions", {"model": DEMO_MODEL, "prompt": said, "max_tokens": 24, "temperature": 0})
    assert answer.status_code == 200, answer.text
    [model] = first.state()["models"]
    assert model["speculation"]["proposed_tokens"] == 0
    for node in (first, second):
        [note] = [one for one in node.state()["notes"] if one["kind"] == "numerics_differ"]
        assert note["text"].startswith(f"{DEMO_MODEL} is not exact")
        assert found["second"] in note["text"]
        assert "is not exact" in node.log_path.read_text(encoding="utf-8")
