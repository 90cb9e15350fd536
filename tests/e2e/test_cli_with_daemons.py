"""The real command line against two real daemons that share the demo model."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
from typing import Any

import pytest

from tests.daemons import PROGRAM, Daemons, Node, clean_environment, run_cli, wait_until

MODEL = "smollm2-135m"
LOAD = {"context": 512, "slots": 4}
QUESTION = "Name three colours of the rainbow."
GREEDY = ("--temperature", "0")
RUN_KEYS = {
    *("text", "model", "finish_reason", "prompt_tokens", "completion_tokens", "ttft_ms", "tokens_per_second"),
    "token_ids",
}
PLAN_KEYS = {"model", "n_layers", "strategy", "fits", "reason", "shards", "excluded"}
CANCELLED_WITHIN_S = 2.0


@pytest.fixture
def pair(daemons: Daemons) -> list[Node]:
    """Two nodes, and the model ready on both."""
    nodes = daemons.running or daemons.start_all({"a": "600MiB", "b": "500MiB"})
    nodes[0].load(MODEL, **LOAD)
    for node in nodes:
        node.wait_ready(MODEL)
    return nodes


def ask(node: Node, verb: str, *arguments: str, prompt: str | None = None) -> subprocess.CompletedProcess[str]:
    return run_cli(verb, *arguments, "--http", node.http, prompt=prompt)


def ask_json(node: Node, verb: str, *arguments: str, prompt: str | None = None) -> dict[str, Any]:
    done = ask(node, verb, *arguments, "--json", prompt=prompt)
    assert done.returncode == 0, done.stderr
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def test_run_writes_the_answer_to_stdout_and_all_else_to_stderr(pair: list[Node]) -> None:
    told = pair[0].chat(MODEL, QUESTION, max_tokens=16)
    done = ask(pair[1], "run", MODEL, QUESTION, "--max-tokens", "16", *GREEDY)
    assert done.returncode == 0, done.stderr
    assert done.stdout == told["choices"][0]["message"]["content"].removesuffix("\n") + "\n"
    for word in ("prompt tokens", "16 generated", "first token after", "tokens/s"):
        assert word in done.stderr


def test_run_json_is_one_object_of_the_contracts_keys(pair: list[Node]) -> None:
    told = pair[0].chat(MODEL, QUESTION, max_tokens=16, return_token_ids=True)
    document = ask_json(pair[1], "run", MODEL, QUESTION, "--max-tokens", "16", *GREEDY)
    assert set(document) >= RUN_KEYS
    assert document["token_ids"] == told["choices"][0]["token_ids"]
    assert document["text"] == told["choices"][0]["message"]["content"]
    assert (document["model"], document["finish_reason"]) == (MODEL, "length")
    assert (document["prompt_tokens"], document["completion_tokens"]) == (told["usage"]["prompt_tokens"], 16)
    assert document["ttft_ms"] > 0
    assert document["tokens_per_second"] > 0


def test_run_takes_the_prompt_from_standard_input(pair: list[Node]) -> None:
    as_argument = ask_json(pair[0], "run", MODEL, QUESTION, "--max-tokens", "8", *GREEDY)
    as_input = ask_json(pair[0], "run", MODEL, "--max-tokens", "8", *GREEDY, prompt=QUESTION)
    assert as_input["token_ids"] == as_argument["token_ids"]


def test_run_raw_continues_the_text_without_a_template(pair: list[Node]) -> None:
    body = {"model": MODEL, "prompt": "Once upon a time", "max_tokens": 8, "temperature": 0, "return_token_ids": True}
    told = pair[1].post("/v1/completions", body).json()
    document = ask_json(pair[0], "run", MODEL, "Once upon a time", "--raw", "--max-tokens", "8", *GREEDY)
    assert document["token_ids"] == told["choices"][0]["token_ids"]
    assert document["prompt_tokens"] == told["usage"]["prompt_tokens"] < 8


def test_run_ends_before_a_stop_string(pair: list[Node]) -> None:
    whole = ask_json(pair[0], "run", MODEL, QUESTION, "--max-tokens", "16", *GREEDY)["text"]
    stop = whole.split()[3]
    document = ask_json(pair[0], "run", MODEL, QUESTION, "--max-tokens", "16", "--stop", stop, *GREEDY)
    assert document["text"] == whole[: whole.index(stop)]
    assert document["finish_reason"] == "stop"


def test_the_seed_of_run_decides_the_answer(pair: list[Node]) -> None:
    drawn = ("run", MODEL, QUESTION, "--max-tokens", "16", "--temperature", "1", "--seed")
    first, again, other = (ask_json(pair[0], *drawn, seed)["token_ids"] for seed in ("5", "5", "6"))
    assert first == again
    assert first != other


def test_run_loads_the_model_on_demand(pair: list[Node]) -> None:
    assert ask(pair[1], "unload", MODEL).returncode == 0
    done = ask(pair[0], "run", MODEL, QUESTION, "--max-tokens", "4", "--context", "512", "--slots", "4", *GREEDY)
    assert done.returncode == 0, done.stderr
    assert f"loading {MODEL}" in done.stderr
    assert done.stdout.strip()


def test_load_waits_until_ready_and_unload_takes_it_away(pair: list[Node]) -> None:
    unloaded = ask(pair[0], "unload", MODEL)
    assert (unloaded.returncode, unloaded.stdout) == (0, f"{MODEL}: unloaded\n")
    wait_until(lambda: pair[1].state()["models"] == [], "no model is left")
    loaded = ask(pair[1], "load", MODEL, "--wait", "--context", "512", "--slots", "4")
    assert (loaded.returncode, loaded.stdout) == (0, f"{MODEL}: ready\n")
    model = pair[1].model(MODEL)
    assert model is not None
    assert (model["state"], model["context_length"]) == ("ready", 512)


def test_status_shows_nodes_models_and_shards(pair: list[Node]) -> None:
    done = ask(pair[0], "status")
    assert done.returncode == 0, done.stderr
    rows = [line.split() for line in done.stdout.splitlines()]
    shards = [[row[1], row[2], row[3]] for row in rows if row[:1] == [MODEL] and row[1] in ("a", "b")]
    state = pair[0].state()
    expected = state["models"][0]["shards"]
    assert shards == [[one["node"], str(one["start_layer"]), str(one["end_layer"])] for one in expected]
    assert any(row[:4] == ["a", "(this", "one)", "alive"] for row in rows)
    assert any(row[:2] == ["b", "alive"] for row in rows)
    document = ask_json(pair[0], "status")
    assert set(document) == set(state)
    assert document["models"][0]["shards"][0].keys() == expected[0].keys()
    assert [node["name"] for node in document["nodes"]] == ["a", "b"]


def test_plan_shows_a_split_that_fits(pair: list[Node]) -> None:
    document = ask_json(pair[0], "plan", MODEL, "--context", "512", "--slots", "4")
    assert set(document) >= PLAN_KEYS
    assert (document["fits"], document["reason"], document["n_layers"]) == (True, None, 30)
    covered = [range(one["start_layer"], one["end_layer"] + 1) for one in document["shards"]]
    assert [layer for layers in covered for layer in layers] == list(range(30))
    plain = ask(pair[0], "plan", MODEL)
    assert plain.returncode == 0
    assert "START_LAYER" in plain.stdout


def test_plan_refuses_with_the_arithmetic(pair: list[Node]) -> None:
    refused = ask(pair[0], "plan", "llama-3-70b", "--json")
    assert refused.returncode == 4
    document = json.loads(refused.stdout)
    assert (document["fits"], document["shards"]) == (False, [])
    for text in (document["reason"], refused.stderr):
        assert "llama-3-70b needs" in text
        for part in ("2 nodes offer", "in all: short by", "a: offers", "b: offers", "single layer takes"):
            assert part in text


def test_nobody_at_the_address_is_exit_code_3() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    done = run_cli("status", "--http", address)
    assert (done.returncode, done.stdout) == (3, "")
    assert address in done.stderr
    assert "exo-lite node" in done.stderr


def test_an_unknown_model_is_exit_code_1_with_a_suggestion(pair: list[Node]) -> None:
    for verb in (("run", "smolm2-135", "Hello"), ("load", "smolm2-135"), ("plan", "smolm2-135")):
        done = ask(pair[0], *verb)
        assert (done.returncode, done.stdout) == (1, "")
        assert f"did you mean {MODEL}" in done.stderr


def test_ctrl_c_ends_run_and_the_request_on_every_node(pair: list[Node]) -> None:
    def running() -> list[int]:
        return [node.state()["models"][0]["requests"]["running"] for node in pair]

    wait_until(lambda: running() == [0, 0], "the nodes are idle")
    command = [*PROGRAM, "run", MODEL, "Once upon a time", "--raw", "--max-tokens", "480", "--http", pair[0].http]
    asked = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=clean_environment()
    )
    with asked:
        wait_until(lambda: running() == [1, 1], "both see the request run")
        asked.send_signal(signal.SIGINT)
        assert asked.wait(10) == 130
        wait_until(lambda: running() == [0, 0], "both see that it ended", timeout_s=CANCELLED_WITHIN_S)
        assert asked.stderr is not None
        assert b"Traceback" not in asked.stderr.read()
