from __future__ import annotations

import pytest

LOAD = "/api/v1/models/tiny/load"


@pytest.fixture
def loading(daemon, documents):
    daemon.on("POST", LOAD, {"id": "tiny", "state": "loading", "epoch": 3}, 202)
    states = [documents.state(documents.model(state="loading")), documents.state(documents.model())]
    daemon.streams("GET", "/api/v1/events", [("state", one) for one in states], holds=True)
    return daemon


def test_load_returns_at_once(ask, loading):
    result = ask("load", "tiny")
    assert (result.exit_code, result.stdout) == (0, "tiny: loading\n")
    assert loading.bodies(LOAD) == [{}]


def test_load_waits_with_progress(ask, loading):
    result = ask("load", "tiny", "--wait")
    assert (result.exit_code, result.stdout) == (0, "tiny: ready\n")
    assert "loading tiny" in result.stderr


def test_load_passes_every_flag_on(ask, loading):
    flags = ["--dtype", "float32", "--quant", "int4", "--context", "100", "--slots", "2", "--strategy", "by_memory"]
    ask("load", "tiny", *flags)
    asked = {"strategy": "by_memory", "dtype": "float32", "quant": "int4", "context": 100, "slots": 2}
    assert loading.bodies(LOAD) == [asked]


@pytest.mark.parametrize(("flag", "seconds"), [("5m", 300.0), ("0", 0.0), ("-1", -1)])
def test_load_says_how_long_it_is_kept(ask, loading, flag, seconds):
    ask("load", "tiny", "--keep-alive", flag)
    assert loading.bodies(LOAD)[0]["keep_alive"] == seconds


def test_a_time_that_is_none_is_wrong_usage(ask, loading):
    result = ask("load", "tiny", "--keep-alive", "soon")
    assert result.exit_code == 2
    assert "5m" in result.stderr


def test_what_saves_work_can_be_switched_off(ask, loading):
    ask("load", "tiny", "--no-prefix-cache", "--no-speculation")
    [asked] = loading.bodies(LOAD)
    assert (asked["prefix_cache"], asked["speculation"]) == (False, False)


def test_unload(ask, daemon):
    daemon.on("POST", "/api/v1/models/tiny/unload", {"id": "tiny"})
    result = ask("unload", "tiny")
    assert (result.exit_code, result.stdout) == (0, "tiny: unloaded\n")


def test_an_odd_id_stays_one_part_of_the_path(ask, daemon, documents):
    daemon.on("POST", "/api/v1/models/a%2F..%2Fb%3Fc/unload", documents.error("invalid_request", "not an id"), 400)
    assert ask("unload", "a/../b?c").exit_code == 2


def test_a_node_that_binds_everywhere_is_asked_on_loopback(cli, daemon):
    daemon.on("POST", "/api/v1/models/tiny/unload", {"id": "tiny"})
    port = daemon.address.rpartition(":")[2]
    assert cli("unload", "tiny", "--http", f"0.0.0.0:{port}").exit_code == 0
