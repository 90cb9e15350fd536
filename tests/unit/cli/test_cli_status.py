from __future__ import annotations

import json

import pytest


@pytest.fixture
def cluster(daemon, documents):
    shards = [documents.shard("node-a", 0, 2), documents.shard("node-b", 3, 3, state="loading", progress=0.25)]
    model = documents.model(state="degraded", reason="node-c is gone", shards=shards)
    document = documents.state(model)
    daemon.on("GET", "/api/v1/state", document)
    return document


def test_json_is_the_state_document(ask, cluster):
    assert json.loads(ask("status", "--json").stdout) == cluster


def test_text_shows_nodes_models_and_shards_in_columns(ask, cluster):
    result = ask("status")
    assert result.exit_code == 0
    headline, nodes, models, shards, reason = result.stdout.rstrip("\n").split("\n\n")
    assert headline == "Cluster default, seen from node-a; leader node-a, epoch 3"
    assert [line.split()[0] for line in nodes.splitlines()] == ["NODE", "node-a", "node-b"]
    assert "(this one)" in nodes.splitlines()[1]
    assert "512.0 MiB" in nodes
    assert models.splitlines()[1].split() == ["tiny", "degraded", "4", "bfloat16", "none", "2048", "12.5", "1", "0"]
    assert shards.splitlines()[0].split("  ")[0] == "SHARD OF"
    assert shards.splitlines()[1].split() == ["tiny", "node-a", "0", "2", "10.0", "MiB", "ready", "1.2", "ms", "-"]
    assert "node-b            3          3  10.0 MiB  loading 25 %" in shards.splitlines()[2]
    assert reason == "tiny: node-c is gone"


def test_peers_that_are_not_reached_are_shown_with_cause_and_fix(ask, daemon, documents):
    peer = {"node_id": "b", "name": "attic", "address": "10.0.0.2:52414", "seen_by": "node-a", "since_s": 12.3}
    why = {"reason": "TCP port 52414 of 10.0.0.2 does not answer", "fix": "let 52414/tcp in"}
    daemon.on("GET", "/api/v1/state", documents.state() | {"unreached": [peer | why]})
    shown = "Not reached for 12 s: attic (10.0.0.2:52414): TCP port 52414 of 10.0.0.2 does not answer"
    assert f"{shown}\nFix: let 52414/tcp in" in ask("status").stdout


def test_columns_are_aligned(ask, cluster):
    lines = ask("status").stdout.split("\n\n")[3].splitlines()
    assert len({line.index("10.0 MiB") for line in lines[1:]}) == 1
    assert lines[0].index("START_LAYER") + len("START_LAYER") == lines[1].index(" 0 ") + 2  # numbers stand flush right


def test_an_empty_cluster_says_how_to_go_on(ask, daemon, documents):
    daemon.on("GET", "/api/v1/state", documents.state())
    assert "exo-lite run MODEL" in ask("status").stdout


def test_no_colours_outside_a_terminal(ask, cluster):
    assert "\x1b" not in ask("status").stdout


def test_watch_shows_each_change(ask, daemon, documents):
    loading = documents.state(documents.model(state="loading"))
    events = [("state", loading), ("change", {"models": [documents.model()]})]
    daemon.streams("GET", "/api/v1/events", events, events)
    result = ask("status", "--watch", "--json")
    assert [json.loads(line) for line in result.stdout.splitlines()] == [loading, documents.state(documents.model())]
    shown = ask("status", "--watch").stdout
    first, second = shown.split("Cluster default")[1:]
    assert "tiny   loading" in first
    assert "tiny   ready" in second
    assert result.exit_code == 1  # it ends only where the daemon does
    assert "closed the connection" in result.stderr


def test_text_tells_what_is_wrong_between_nodes_and_what_to_do_about_a_failed_model(ask, daemon, documents):
    note = {"kind": "link_broken", "text": "node-a and node-c cannot reach each other", "fix": "open the port"}
    model = {**documents.model(state="failed", reason="no ring"), "fix": "join them"}
    daemon.on("GET", "/api/v1/state", {**documents.state(model), "notes": [note]})
    *_, reason, last = ask("status").stdout.rstrip("\n").split("\n\n")
    assert reason == "tiny: no ring\nFix: join them"
    assert last == "node-a and node-c cannot reach each other\nFix: open the port"
