from __future__ import annotations

import json

import pytest

from exo_lite.cli.errors import Failed
from exo_lite.cli.measuring import Shape, Stream, decode_rate, random_prompts, read_stream, run_result

COMPLETIONS = "/v1/completions"
LOAD = "/api/v1/models/tiny/load"


def answer(num_tokens, *, sizes=None):
    """A streamed answer of one token per chunk, or of so many in each."""
    sizes = sizes or [1] * num_tokens
    chunks = [{"choices": [{"text": "x", "token_ids": [7] * size}], "usage": None} for size in sizes]
    timings = {"prompt_ms": 100.0, "predicted_ms": 10.0 * (num_tokens - 1)}
    last = {"choices": [], "usage": {"completion_tokens": num_tokens}, "timings": timings}
    return [("", chunk) for chunk in [*chunks, last, "[DONE]"]]


@pytest.fixture
def ready(daemon, documents):
    daemon.on("GET", "/api/v1/state", documents.state(documents.model()))
    daemon.streams("POST", COMPLETIONS, answer(2), answer(4))
    return daemon


def loadable(daemon, documents, *, before=(), **loaded):
    daemon.on("GET", "/api/v1/state", documents.state(*before))
    daemon.on("POST", LOAD, {"id": "tiny", "state": "loading", "epoch": 3}, 202)
    daemon.streams("GET", "/api/v1/events", [("state", documents.state(documents.model(**loaded)))], holds=True)
    return daemon


FLAGS = ("--prompt-tokens", 20, "--tokens", 4)


def test_json_is_the_contracts_document(ask, ready):
    result = ask("bench", "tiny", *FLAGS, "--repeat", 2, "--json")
    assert result.exit_code == 0, result.stderr
    document = json.loads(result.stdout)
    runs = document.pop("runs")
    assert document == {"model": "tiny", "quant": "none", "dtype": "bfloat16", "nodes": ["node-a", "node-b"]}
    assert len(runs) == 2
    for run in runs:
        assert run.pop("prefill_tokens_per_second") > 0
        assert run.pop("decode_tokens_per_second") > 0
        assert run.pop("ttft_ms") > 0
        assert run == {"prompt_tokens": 20, "tokens": 4, "concurrency": 1}


def test_asks_with_random_token_ids_after_a_short_warm_up(ask, ready):
    ask("bench", "tiny", *FLAGS, "--repeat", 2, "--seed", 5)
    warm_up, first, second = ready.bodies(COMPLETIONS)
    prompt = first.pop("prompt")
    assert first == {
        "model": "tiny",
        "max_tokens": 4,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
        "return_token_ids": True,
    }
    assert len(prompt) == len(second["prompt"]) == 20
    assert prompt != second["prompt"]
    assert all(0 <= token_id < 512 for token_id in prompt)
    assert (len(warm_up["prompt"]), warm_up["max_tokens"]) == (16, 2)


def test_the_seed_fixes_the_prompts_and_is_another_each_time_without(ask, ready):
    def asked(*flags):
        ready.asked.clear()
        ready.streams("POST", COMPLETIONS, answer(2), answer(4))
        ask("bench", "tiny", *FLAGS, "--repeat", 1, *flags)
        return [body["prompt"] for body in ready.bodies(COMPLETIONS)]

    assert asked("--seed", 5) == asked("--seed", 5)
    assert asked("--seed", 5) != asked("--seed", 6)
    assert asked() != asked()


def test_text_is_a_table_with_medians(ask, ready):
    result = ask("bench", "tiny", *FLAGS)
    lines = result.stdout.splitlines()
    assert lines[0] == "tiny, bfloat16, quant none, on node-a, node-b"
    assert lines[1] == "20 prompt tokens, 4 generated, 1 at a time"
    assert lines[3].split("  ")[0] == "RUN"
    assert [line.split()[0] for line in lines[4:]] == ["1", "2", "3", "median"]
    assert "run 3 of 3: " in result.stderr


def test_concurrent_streams_ask_at_the_same_time(ask, ready):
    ready.streams("POST", COMPLETIONS, answer(2), answer(2), answer(2), answer(4))
    result = ask("bench", "tiny", *FLAGS, "--concurrency", 3, "--repeat", 1, "--json")
    assert result.exit_code == 0, result.stderr
    prompts = [tuple(body["prompt"]) for body in ready.bodies(COMPLETIONS)]
    assert len(set(prompts)) == 6
    assert json.loads(result.stdout)["runs"][0]["concurrency"] == 3


def test_loads_on_demand_with_the_flags(ask, daemon, documents):
    loadable(daemon, documents, quant="int8")
    daemon.streams("POST", COMPLETIONS, answer(2), answer(4))
    result = ask("bench", "tiny", *FLAGS, "--quant", "int8", "--repeat", 1, "--json")
    assert result.exit_code == 0, result.stderr
    assert daemon.bodies(LOAD) == [{"quant": "int8"}]
    assert json.loads(result.stdout)["quant"] == "int8"


def test_loads_with_room_for_the_run(ask, daemon, documents):
    loadable(daemon, documents, context_length=4004, slots=16)
    daemon.streams("POST", COMPLETIONS, *[answer(2)] * 16, answer(4))
    ask("bench", "tiny", "--prompt-tokens", 4000, "--tokens", 4, "--concurrency", 16, "--repeat", 1)
    assert daemon.bodies(LOAD) == [{"context": 4004, "slots": 16}]


@pytest.mark.parametrize(
    ("flags", "loads"),
    [
        ((), False),
        (("--quant", "none", "--dtype", "bfloat16", "--context", 1000, "--slots", 8), False),
        (("--quant", "int8"), True),
        (("--dtype", "float32"), True),
        (("--context", 3000), True),
        (("--slots", 9), True),
    ],
)
def test_a_ready_model_is_loaded_anew_only_where_the_flags_ask_for_another(ask, daemon, documents, flags, loads):
    loadable(daemon, documents, before=[documents.model()])
    daemon.streams("POST", COMPLETIONS, answer(2), answer(4))
    result = ask("bench", "tiny", *FLAGS, "--repeat", 1, *flags)
    assert result.exit_code == 0, result.stderr
    assert bool(daemon.bodies(LOAD)) is loads


def test_a_context_too_small_is_wrong_usage(ask, ready):
    result = ask("bench", "tiny", *FLAGS, "--context", 23)
    assert result.exit_code == 2
    assert "--context 23 is less than prompt and answer, 24 tokens" in result.stderr
    assert not ready.asked


def test_a_model_that_came_with_less_context_is_refused(ask, daemon, documents):
    loadable(daemon, documents, context_length=16)
    result = ask("bench", "tiny", *FLAGS)
    assert result.exit_code == 2
    assert "loaded with a context of 16 tokens, but prompt and answer take 24" in result.stderr


def test_too_few_slots_are_said(ask, daemon, documents):
    loadable(daemon, documents, slots=1)
    daemon.streams("POST", COMPLETIONS, answer(2), answer(2), answer(4))
    result = ask("bench", "tiny", *FLAGS, "--concurrency", 2, "--slots", 1, "--repeat", 1)
    assert result.exit_code == 0, result.stderr
    assert "tiny is loaded with --slots 1: some streams wait for others" in result.stderr


def test_an_error_in_a_stream_ends_the_run(ask, ready, documents):
    ready.streams("POST", COMPLETIONS, [("", documents.error("node_lost", "node-b is gone"))], answer(2))
    result = ask("bench", "tiny", *FLAGS, "--concurrency", 2)
    assert result.exit_code == 1
    assert "node-b is gone" in result.stderr


def test_an_answer_too_short_is_no_measurement(ask, ready):
    ready.streams("POST", COMPLETIONS, answer(1))
    result = ask("bench", "tiny", *FLAGS)
    assert result.exit_code == 1
    assert "the answer has 1 tokens, not the 2 asked for" in result.stderr


def chunks_of(*sizes, num_tokens):
    return [document for _, document in answer(num_tokens, sizes=sizes)[:-1]]


def test_times_are_those_of_the_chunks():
    ticks = iter([1.5, 2.0, 3.0])
    stream = read_stream(chunks_of(1, 2, num_tokens=3), 1.0, 3, clock=lambda: next(ticks))
    assert stream == Stream(1.0, (1.5, 2.0, 2.0))
    assert stream.ttft_s == 0.5


def test_where_the_first_text_was_held_back_the_daemons_times_count():
    stream = read_stream(chunks_of(2, 1, num_tokens=3), 1.0, 3, clock=lambda: 9.0)
    assert stream.times_s == pytest.approx((1.1, 1.11, 1.12))


def test_an_answer_of_another_length_fails():
    with pytest.raises(Failed, match="3 tokens, not the 4"):
        read_stream(chunks_of(1, 1, 1, num_tokens=3), 0.0, 4)


def test_one_stream_decodes_after_its_first_token():
    assert decode_rate([Stream(0.0, (5.0, 5.5, 6.0))]) == 2.0


def test_several_streams_count_while_all_decode():
    early, late = Stream(0.0, (1.0, 4.0, 5.0, 6.0)), Stream(0.0, (4.0, 5.0, 6.0, 7.0))
    assert decode_rate([early, late]) == pytest.approx(2.0)


def test_streams_that_waited_for_each_other_count_from_the_first_token_to_the_last():
    assert decode_rate([Stream(0.0, (1.0, 2.0)), Stream(0.0, (4.0, 5.0))]) == pytest.approx(3 / 4)


def test_tokens_that_came_all_at_once_have_no_rate():
    assert decode_rate([Stream(0.0, (1.0, 1.0))]) == 0.0


def test_prefill_ends_with_the_last_streams_first_token():
    streams = [Stream(0.0, (1.0, 3.0)), Stream(0.0, (2.0, 3.0))]
    result = run_result(streams, Shape(prompt_tokens=100, tokens=2, concurrency=2))
    assert result.prefill_tokens_per_second == 100.0
    assert result.ttft_ms == 1500.0


def test_prompts_lie_within_the_vocabulary():
    prompts = random_prompts(Shape(200, 2, 3), vocab_size=3, seed="s")
    assert [len(prompt) for prompt in prompts] == [200] * 3
    assert {token_id for prompt in prompts for token_id in prompt} == {0, 1, 2}
