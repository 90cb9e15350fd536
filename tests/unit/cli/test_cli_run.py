from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys

import pytest

CHAT = "/v1/chat/completions"


@pytest.fixture
def ready(daemon, documents):
    daemon.on("GET", "/api/v1/state", documents.state(documents.model()))
    daemon.streams("POST", CHAT, documents.chat("Par", "is", "."))
    return daemon


def test_streams_the_answer_to_stdout_and_the_rest_to_stderr(ask, ready):
    result = ask("run", "tiny", "What is the capital of France?")
    assert result.exit_code == 0
    assert result.stdout == "Paris.\n"
    assert "7 prompt tokens, 3 generated; first token after" in result.stderr
    assert "tokens/s" in result.stderr


def test_asks_what_the_flags_say(ask, ready):
    flags = ["--max-tokens", "5", "--temperature", "0", "--top-p", "0.5", "--top-k", "3", "--seed", "9"]
    flags += ["--min-p", "0.1", "--repetition-penalty", "1.2", "--presence-penalty", "-1", "--frequency-penalty", "2"]
    ask("run", "tiny", "Hi", "--system", "Be short.", *flags, "--stop", "A", "--stop", "B")
    assert ready.bodies(CHAT) == [
        {
            "model": "tiny",
            "messages": [{"role": "system", "content": "Be short."}, {"role": "user", "content": "Hi"}],
            "stream": True,
            "stream_options": {"include_usage": True},
            "return_token_ids": True,
            "max_tokens": 5,
            "temperature": 0.0,
            "top_p": 0.5,
            "top_k": 3,
            "min_p": 0.1,
            "repetition_penalty": 1.2,
            "presence_penalty": -1.0,
            "frequency_penalty": 2.0,
            "seed": 9,
            "stop": ["A", "B"],
        }
    ]


def test_leaves_open_what_no_flag_says(ask, ready):
    ask("run", "tiny", "Hi")
    assert set(ready.bodies(CHAT)[0]) == {"model", "messages", "stream", "stream_options", "return_token_ids"}


def test_json_is_one_object(ask, ready):
    result = ask("run", "tiny", "Hi", "--json")
    document = json.loads(result.stdout)
    assert document.pop("ttft_ms") > 0
    assert document.pop("tokens_per_second") > 0
    assert document == {
        "text": "Paris.",
        "model": "tiny",
        "finish_reason": "stop",
        "prompt_tokens": 7,
        "completion_tokens": 3,
        "token_ids": [100, 101, 102],
    }


def test_raw_continues_the_prompt(ask, daemon, documents):
    daemon.on("GET", "/api/v1/state", documents.state(documents.model()))
    chunk = {"choices": [{"text": " time", "token_ids": [5], "finish_reason": "length"}]}
    daemon.streams("POST", "/v1/completions", [("", chunk), ("", "[DONE]")])
    result = ask("run", "tiny", "Once upon a", "--raw")
    assert result.stdout == " time\n"
    assert daemon.bodies("/v1/completions")[0]["prompt"] == "Once upon a"


def test_prompt_from_stdin(ask, ready):
    ask("run", "tiny", input="From a pipe\n")
    assert ready.bodies(CHAT)[0]["messages"] == [{"role": "user", "content": "From a pipe\n"}]


@pytest.mark.parametrize("bytes_in", [b"", b" \n", b"\xff"])
def test_no_prompt_is_wrong_usage(ask, ready, bytes_in):
    result = ask("run", "tiny", input=bytes_in)
    assert result.exit_code == 2
    assert "prompt" in result.stderr
    assert not ready.asked


def test_the_question_says_how_long_the_model_is_kept(ask, ready):
    ask("run", "tiny", "Hi", "--keep-alive", "-1")
    ask("run", "tiny", "Hi", "--keep-alive", "5m")
    ask("run", "tiny", "Hi")
    assert [body.get("keep_alive") for body in ready.bodies(CHAT)] == [-1, 300.0, None]


def test_loads_on_demand_with_progress(ask, ready, documents):
    ready.on("GET", "/api/v1/state", documents.state())
    ready.on("POST", "/api/v1/models/tiny/load", {"id": "tiny", "state": "loading", "epoch": 3}, 202)
    halves = [documents.shard("node-a", 0, 1, progress=1.0), documents.shard("node-b", 2, 3, progress=0.2)]
    events = [
        ("state", documents.state(epoch=2)),
        ("change", {"epoch": 3, "models": [documents.model(state="loading", shards=halves)]}),
        ("change", {"models": [documents.model(state="warming")]}),
        ("change", {"models": [documents.model()]}),
    ]
    ready.streams("GET", "/api/v1/events", events, holds=True)
    result = ask("run", "tiny", "Hi", "--quant", "int8", "--context", "512")
    assert result.exit_code == 0, result.stderr
    assert result.stdout == "Paris.\n"
    assert "loading tiny: 60 %\nwarming tiny: 100 %\n" in result.stderr
    asked = {"quant": "int8", "context": 512, "on_demand": True}
    assert ready.bodies("/api/v1/models/tiny/load") == [asked]


def test_an_alias_of_a_ready_model_loads_nothing(ask, ready, documents):
    ready.on("GET", "/api/v1/state", documents.state(documents.model(id="smollm2-135m")))
    assert ask("run", "smollm2:135m", "Hi").exit_code == 0
    assert [asked.path for asked in ready.asked] == ["/api/v1/state", CHAT]
    assert ready.bodies(CHAT)[0]["model"] == "smollm2-135m"


def test_the_id_that_the_daemon_gives_is_asked_for(ask, ready, documents):
    ready.on("POST", "/api/v1/models/alias/load", {"id": "tiny", "state": "ready", "epoch": 3}, 202)
    ready.streams("GET", "/api/v1/events", [("state", documents.state(documents.model()))], holds=True)
    assert ask("run", "alias", "Hi").exit_code == 0
    assert ready.bodies(CHAT)[0]["model"] == "tiny"


def loading_ends(daemon, documents, states) -> None:
    daemon.on("GET", "/api/v1/state", documents.state())
    daemon.on("POST", "/api/v1/models/tiny/load", {"id": "tiny", "state": "loading", "epoch": 3}, 202)
    daemon.streams("GET", "/api/v1/events", [("state", one) for one in states])


@pytest.mark.parametrize(
    ("states", "cause"),
    [
        (lambda it: [it.state(it.model(state="failed", reason="node-b lost its worker"))], "node-b lost its worker"),
        (lambda it: [it.state(it.model(state="loading")), it.state()], "unloaded while it was being loaded"),
        (lambda it: [it.state(epoch=4)], "unloaded while it was being loaded"),
        (lambda it: [it.state(it.model(state="loading"))], "stopped reporting"),
        (lambda it: [it.state(it.model(state="failed", epoch=2), epoch=2)], "stopped reporting"),
    ],
)
def test_a_load_that_fails_says_why(ask, daemon, documents, states, cause):
    loading_ends(daemon, documents, states(documents))
    result = ask("run", "tiny", "Hi")
    assert result.exit_code == 1
    assert cause in result.stderr
    assert not result.stdout


def test_a_model_that_does_not_fit_exits_4_with_the_arithmetic(ask, daemon, documents):
    daemon.on("GET", "/api/v1/state", documents.state())
    refusal = documents.error("model_does_not_fit", "tiny needs 2 GiB, 1 GiB is offered: short by 1 GiB")
    daemon.on("POST", "/api/v1/models/tiny/load", refusal, 507)
    result = ask("run", "tiny", "Hi")
    assert result.exit_code == 4
    assert "short by 1 GiB" in result.stderr


def test_an_error_in_mid_answer_is_reported_after_what_came(ask, ready, documents):
    events = [*documents.chat("Par")[:2], ("", documents.error("node_lost", "node-b is gone"))]
    ready.streams("POST", CHAT, events)
    result = ask("run", "tiny", "Hi")
    assert result.exit_code == 1
    assert result.stdout == "Par"
    assert "node-b is gone" in result.stderr


def test_an_answer_that_breaks_off_is_a_failure(ask, ready, documents):
    ready.streams("POST", CHAT, documents.chat("Par")[:2])
    result = ask("run", "tiny", "Hi")
    assert result.exit_code == 1
    assert "ended in the middle of an answer" in result.stderr


@pytest.mark.parametrize(
    ("code", "status", "exit_code"),
    [
        ("invalid_request", 400, 2),
        ("context_length_exceeded", 400, 1),
        ("unauthorized", 401, 1),
        ("model_not_found", 404, 1),
        ("queue_full", 429, 1),
        ("not_ready", 503, 1),
        ("of_a_newer_version", 500, 1),
    ],
)
def test_refusals_have_exit_codes(ask, ready, code, status, exit_code, documents):
    ready.on("POST", CHAT, documents.error(code, "the cause and the way out"), status)
    result = ask("run", "tiny", "Hi")
    assert result.exit_code == exit_code
    assert "the cause and the way out" in result.stderr


@pytest.mark.parametrize("body", [b"<html>", b"[]", b'{"error": "no"}', b""])
def test_a_server_of_another_kind_is_named(ask, daemon, body):
    daemon.on("GET", "/api/v1/state", body, 500)
    result = ask("run", "tiny", "Hi")
    assert result.exit_code == 1
    assert daemon.address in result.stderr
    assert "exo-lite daemon" in result.stderr


def test_without_a_daemon_it_says_how_to_start_one(cli):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    for verb in (["run", "tiny", "Hi"], ["status"], ["load", "tiny"], ["unload", "tiny"], ["plan", "tiny"]):
        result = cli(*verb, "--http", f"127.0.0.1:{port}")
        assert result.exit_code == 3
        assert f"127.0.0.1:{port}" in result.stderr
        assert "exo-lite node" in result.stderr


def test_the_api_key_is_sent(ask, ready):
    ask("run", "tiny", "Hi", env={"EXO_LITE_API_KEY": "secret"})
    assert {asked.authorization for asked in ready.asked} == {"Bearer secret"}


@pytest.mark.parametrize(
    "flags", [["--temperature", "3"], ["--top-p", "1.1"], ["--max-tokens", "0"], ["--dtype", "int4"]]
)
def test_impossible_flags_are_wrong_usage(ask, ready, flags):
    assert ask("run", "tiny", "Hi", *flags).exit_code == 2
    assert not ready.asked


def test_ctrl_c_ends_with_130(ready, home, documents):
    ready.streams("POST", CHAT, documents.chat("Par")[:2], holds=True)
    command = [sys.executable, "-m", "exo_lite", "run", "tiny", "Hi", "--http", ready.address]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as running:
        assert running.stdout is not None
        assert running.stdout.read(3) == b"Par"  # it arrived before the answer was over
        os.kill(running.pid, signal.SIGINT)
        _, stderr = running.communicate(timeout=30)
    assert running.returncode == 130
    assert b"Traceback" not in stderr
