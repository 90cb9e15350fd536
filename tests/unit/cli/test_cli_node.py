from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

from exo_lite.domain.errors import PortInUse
from exo_lite.domain.keep_alive import FOR_EVER
from exo_lite.node.node_config import NodeConfig


class DaemonModule(ModuleType):
    """Stands in for the daemon: keeps the config that it was started with."""

    config: NodeConfig
    exit_code = 0

    def run_daemon(self, config: NodeConfig) -> int:
        self.config = config
        return self.exit_code


@pytest.fixture
def daemon_module(monkeypatch):
    module = DaemonModule("exo_lite.daemon.main")
    monkeypatch.setitem(sys.modules, "exo_lite.daemon.main", module)
    return module


@pytest.fixture
def default(home):
    return NodeConfig(
        name=None,
        cluster="default",
        host=None,
        port=None,
        http=None,
        peers=(),
        mdns=True,
        memory_bytes=None,
        threads=None,
        device="auto",
        data_dir=home / "exo-lite",
        models_dir=home / "exo-lite" / "models",
        log_format="text",
        api_key=None,
    )


def test_defaults(cli, daemon_module, default):
    assert cli("node").exit_code == 0
    assert daemon_module.config == default


@pytest.mark.parametrize(("flag", "ports"), [("6000-6009", (6000, 6009)), ("0", (0, 0))])
def test_ports_of_workers(cli, daemon_module, default, flag, ports):
    cli("node", "--worker-ports", flag)
    assert daemon_module.config == replace(default, worker_ports=ports)


@pytest.mark.parametrize("flag", ["6000", "6009-6000", "6000-6000", "0-7", "-5", "6000-70000", "a-b", ""])
def test_what_is_no_range_of_ports_is_wrong_usage(cli, daemon_module, flag):
    result = cli("node", "--worker-ports", flag)
    assert result.exit_code == 2
    assert "neither FIRST-LAST with two ports at least nor 0" in " ".join(result.stderr.split())


def test_advertised_addresses(cli, daemon_module, default):
    cli(
        "node", "--advertise", "203.0.113.7", "--advertise", "attic.example:9,[2001:db8::1]:9", "--advertise", "fe80::1"
    )
    announced = ("203.0.113.7", "attic.example:9", "[2001:db8::1]:9", "fe80::1")
    assert daemon_module.config == replace(default, advertise=announced)
    assert cli("node", "--advertise", "attic:port").exit_code == 2


@pytest.mark.parametrize(("flag", "seconds"), [("90", 90.0), ("1h", 3600.0), ("0", 0.0), ("-1", FOR_EVER)])
def test_how_long_models_are_kept(cli, daemon_module, default, flag, seconds):
    cli("node", "--keep-alive", flag)
    assert daemon_module.config == replace(default, keep_alive_s=seconds)


def test_a_port_asked_for_is_told_from_the_default(cli, daemon_module, default):
    cli("node", "--port", "52414", "--http", "127.0.0.1:52415")
    assert daemon_module.config == replace(default, port=52414, http=("127.0.0.1", 52415))


def test_every_flag(cli, daemon_module, default):
    flags = {
        "--name": "attic",
        "--cluster": "home",
        "--host": "10.0.0.5",
        "--port": "0",
        "--http": "[::1]:0",
        "--memory": "6GiB",
        "--threads": "4",
        "--device": "cuda:1",
        "--data-dir": "/d",
        "--models-dir": "/m",
        "--log-format": "json",
        "--api-key": "secret",
    }
    arguments = [part for pair in flags.items() for part in pair]
    result = cli("node", *arguments, "--no-mdns", "--cores-may-sleep", "--peer", "a:1", "--peer", "b:2")
    assert result.exit_code == 0, result.stderr
    assert daemon_module.config == NodeConfig(
        name="attic",
        cluster="home",
        host="10.0.0.5",
        port=0,
        http=("::1", 0),
        peers=("a:1", "b:2"),
        mdns=False,
        memory_bytes=6 * 2**30,
        threads=4,
        device="cuda:1",
        data_dir=Path("/d"),
        models_dir=Path("/m"),
        log_format="json",
        api_key="secret",
        cores_may_sleep=True,
    )


@pytest.mark.parametrize(
    "flags", [["--allowed-host", "vm.local", "--allowed-host", "*"], ["--allowed-host", "vm.local,*"]]
)
def test_other_names_of_the_machine(cli, daemon_module, default, flags):
    assert cli("node", *flags).exit_code == 0
    assert daemon_module.config == replace(default, allowed_hosts=("vm.local", "*"))


def test_other_names_from_the_environment_and_the_file(cli, daemon_module, default, tmp_path):
    path = tmp_path / "config.toml"
    path.write_text('[node]\nallowed-host = ["vm.local", "ai.example"]\n')
    for source in ({"config": path}, {"env": {"EXO_LITE_ALLOWED_HOST": "vm.local ai.example"}}):
        arguments = ["--config", source["config"]] if "config" in source else []
        assert cli("node", *arguments, env=source.get("env")).exit_code == 0
        assert daemon_module.config == replace(default, allowed_hosts=("vm.local", "ai.example"))


@pytest.mark.parametrize("name", ["http://vm.local", "vm.local:80", "vm.local/x", "-x", "ü.example"])
def test_what_is_no_name_is_refused(cli, daemon_module, name):
    result = cli("node", "--allowed-host", name)
    assert (result.exit_code, "is not a host name" in result.stderr) == (2, True)


@pytest.mark.parametrize("key", ["", " ", "s3cret ", "schlüssel"])
def test_keys_that_no_header_carries_are_refused_at_the_start(cli, daemon_module, key):
    for verb in (["node"], ["status"]):
        result = cli(*verb, "--api-key", key)
        assert (result.exit_code, "the API key" in result.stderr) == (2, True)
        assert not key.strip() or key not in result.stderr


def test_models_lie_in_the_data_folder_unless_told_otherwise(cli, daemon_module):
    cli("node", env={"EXO_LITE_DATA_DIR": "/d"})
    assert daemon_module.config.models_dir == Path("/d/models")


def test_one_file_serves_the_daemon_and_its_callers(cli, daemon_module, default, tmp_path):
    path = tmp_path / "config.toml"
    path.write_text('http = "0.0.0.0:8000"\napi-key = "secret"\nmodels-dir = "/m"\n[node]\nmemory = "1GiB"\n')
    assert cli("node", "--config", path).exit_code == 0
    expected = replace(default, http=("0.0.0.0", 8000), api_key="secret", models_dir=Path("/m"), memory_bytes=2**30)
    assert daemon_module.config == expected


def test_the_daemon_s_exit_code_is_the_program_s(cli, daemon_module):
    daemon_module.exit_code = 1
    assert cli("node").exit_code == 1


def test_a_daemon_that_cannot_start_says_why(cli, daemon_module, monkeypatch):
    def refuse(config: NodeConfig) -> int:
        raise PortInUse("port 52414 is in use")

    monkeypatch.setattr(daemon_module, "run_daemon", refuse)
    result = cli("node")
    assert result.exit_code == 1
    assert "Error: port 52414 is in use" in result.stderr


@pytest.mark.parametrize(
    "flags",
    [
        ["--port", "70000"],
        ["--http", "8000"],
        ["--peer", "host"],
        ["--memory", "much"],
        ["--threads", "0"],
        ["--device", "tpu"],
        ["--device", "cuda"],
        ["--log-format", "xml"],
    ],
)
def test_impossible_flags_are_wrong_usage(cli, daemon_module, flags):
    result = cli("node", *flags)
    assert result.exit_code == 2
    assert flags[0] in result.stderr
