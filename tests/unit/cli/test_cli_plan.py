from __future__ import annotations

import json

import pytest

DEMO = ("plan", "smollm2-135m", "--context", "1024", "--slots", "4")
NODES = ("--node", "a=200MiB", "--node", "b=180MiB", "--node", "c=160MiB")


def test_plans_for_machines_that_are_not_there_without_a_daemon(cli):
    result = cli(*DEMO, *NODES, "--json")
    assert result.exit_code == 0, result.stderr
    document = json.loads(result.stdout)
    assert {key: document[key] for key in ("model", "n_layers", "strategy", "fits", "reason", "excluded")} == {
        "model": "smollm2-135m",
        "n_layers": 30,
        "strategy": "by_memory",
        "fits": True,
        "reason": None,
        "excluded": [],
    }
    layers = [layer for shard in document["shards"] for layer in range(shard["start_layer"], shard["end_layer"] + 1)]
    assert layers == list(range(30))
    limits = {"a": 200 * 2**20, "b": 180 * 2**20, "c": 160 * 2**20}
    assert {shard["node"] for shard in document["shards"]} == set(limits)
    assert all(shard["memory_bytes"] <= limits[shard["node"]] for shard in document["shards"])


def test_the_demo_s_nodes_are_all_needed(cli):
    for pair in (NODES[:4], NODES[2:], (*NODES[:2], *NODES[4:])):
        assert cli(*DEMO, *pair).exit_code == 4


def test_text_shows_what_each_node_takes_of_its_limit(cli):
    lines = cli(*DEMO, *NODES).stdout.splitlines()
    assert lines[0] == "smollm2-135m, 30 layers, by_memory"
    assert lines[2].split("  ")[0] == "NODE"
    assert [line.split()[0] for line in lines[3:]] == ["a", "b", "c"]
    assert lines[3].endswith("200.0 MiB")


def test_a_refusal_carries_the_arithmetic_and_exits_4(cli):
    result = cli("plan", "llama-3-70b", "--node", "a=8GiB")
    assert result.exit_code == 4
    assert not result.stdout
    for part in ("llama-3-70b needs", "8.0 GiB", "short by", "a: offers"):
        assert part in result.stderr
    as_json = cli("plan", "llama-3-70b", "--node", "a=8GiB", "--json")
    assert as_json.exit_code == 4
    document = json.loads(as_json.stdout)
    assert (document["fits"], document["shards"]) == (False, [])
    assert document["reason"] in as_json.stderr


def test_nodes_in_one_value_and_from_the_environment(cli):
    expected = cli(*DEMO, *NODES).stdout
    assert cli(*DEMO, "--node", "a=200MiB,b=180MiB,c=160MiB").stdout == expected
    assert cli(*DEMO, env={"EXO_LITE_NODE": "a=200MiB b=180MiB c=160MiB"}).stdout == expected


@pytest.mark.parametrize(
    ("nodes", "cause"),
    [
        (["a"], "is not NAME=SIZE"),
        (["=1GiB"], "is not NAME=SIZE"),
        (["a=big"], "is not a size"),
        (["a=1GiB", "a=2GiB"], "only once"),
    ],
)
def test_impossible_nodes_are_wrong_usage(cli, nodes, cause):
    result = cli("plan", "llama-3-8b", *[part for node in nodes for part in ("--node", node)])
    assert result.exit_code == 2
    assert cause in result.stderr


def test_a_context_beyond_the_model_is_wrong_usage(cli):
    result = cli("plan", "smollm2-135m", "--node", "a=1TiB", "--context", "9000")
    assert result.exit_code == 2
    assert "8192" in result.stderr


def test_an_unknown_model_names_close_ones(cli):
    result = cli("plan", "llama-3-8c", "--node", "a=1TiB")
    assert result.exit_code == 1
    assert "llama-3-8b" in result.stderr


@pytest.fixture
def document():
    shard = {"node": "node-a", "start_layer": 0, "end_layer": 3}
    sizes = {"weight_bytes": 2**20, "kv_cache_bytes": 2**21, "working_bytes": 2**20, "memory_bytes": 2**22}
    excluded = [{"node": "node-b", "reason": "offers less than one layer takes"}]
    head = {"model": "tiny", "n_layers": 4, "strategy": "by_memory", "fits": True, "reason": None}
    return head | {"shards": [shard | sizes], "excluded": excluded}


def test_without_nodes_the_daemon_is_asked(ask, daemon, documents, document):
    daemon.on("POST", "/api/v1/plan", document)
    daemon.on("GET", "/api/v1/state", documents.state())
    assert json.loads(ask("plan", "tiny", "--quant", "int8", "--json").stdout) == document
    expected = {"model": "tiny", "quant": "int8"}
    assert daemon.bodies("/api/v1/plan") == [expected]
    shown = ask("plan", "tiny").stdout.splitlines()
    assert " ".join(shown[3].split()) == "node-a 0 3 1.0 MiB 2.0 MiB 1.0 MiB 4.0 MiB 512.0 MiB"
    assert shown[4] == "node-b holds no layers: offers less than one layer takes"


def test_a_daemon_s_refusal_exits_4(ask, daemon, documents, document):
    refusal = document | {"fits": False, "reason": "tiny needs 2 GiB: short by 1 GiB", "shards": []}
    daemon.on("POST", "/api/v1/plan", refusal)
    daemon.on("GET", "/api/v1/state", documents.state())
    result = ask("plan", "tiny", "--json")
    assert (result.exit_code, json.loads(result.stdout)) == (4, refusal)
    assert "short by 1 GiB" in result.stderr
