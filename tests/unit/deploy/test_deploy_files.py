"""The files in deploy/ say what the program understands."""

from __future__ import annotations

import configparser
import os
import re
import shutil
import subprocess
from pathlib import Path

import click
import pytest
import yaml  # type: ignore[import-untyped]  # comes with huggingface_hub, without types

from exo_lite.cli.config_file import flags_of
from exo_lite.cli.main import VERBS, main
from exo_lite.node.descriptors import WANTED_DESCRIPTORS

ROOT = Path(__file__).parents[3]
DEPLOY = ROOT / "deploy"
SCRIPTS = sorted([*DEPLOY.glob("*.sh"), ROOT / "tests/run.sh", ROOT / ".ci/run"])

COMMAND = re.compile(r"(?:exo[-_]lite(?:\s+|/bin/exo-lite\s+))(?P<verb>[a-z]+)\b(?P<rest>[^\n|;)]*)")


def verb_flags(verb: str) -> set[str]:
    assert isinstance(main, click.Group)
    command = main.get_command(click.Context(main), verb)
    assert command is not None
    return {name for option in flags_of(command).values() for name in option.opts} | {"--config", "--help"}


def known_variables() -> set[str]:
    flags = {flag for verb in VERBS for name in verb_flags(verb) if (flag := name.lstrip("-"))}
    return {f"EXO_LITE_{flag.upper().replace('-', '_')}" for flag in flags}


def commands_in(text: str) -> list[tuple[str, list[str]]]:
    """(verb, flags) of each call of the program in a script."""
    lines = text.replace("\\\n", " ").splitlines()
    code = "\n".join(line for line in lines if not line.lstrip().startswith(("#", "say", "echo")))
    found = [(match["verb"], re.findall(r"--[a-z-]+", match["rest"])) for match in COMMAND.finditer(code)]
    return [(verb, flags) for verb, flags in found if verb in VERBS]


@pytest.fixture(scope="module")
def compose() -> dict[str, dict[str, dict[str, object]]]:
    loaded = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    assert isinstance(loaded, dict)
    return loaded


@pytest.fixture(scope="module")
def unit() -> configparser.RawConfigParser:
    parser = configparser.RawConfigParser(strict=True)
    parser.optionxform = str  # type: ignore[assignment,method-assign]  # as the standard library's manual does it
    parser.read(DEPLOY / "exo-lite.service")
    return parser


def test_demo_calls_the_program_as_it_is():
    calls = commands_in((DEPLOY / "demo.sh").read_text())
    assert {verb for verb, _ in calls} == {"show", "import", "node", "status", "run"}
    for verb, flags in calls:
        assert set(flags) <= verb_flags(verb), verb


def test_demo_loads_with_flags_that_run_has():
    flags = re.search(r"LOAD_FLAGS=\((.*)\)", (DEPLOY / "demo.sh").read_text())
    assert flags is not None
    assert set(re.findall(r"--[a-z-]+", flags[1])) <= verb_flags("run")


def test_demo_refuses_unknown_flags():
    done = subprocess.run(["bash", DEPLOY / "demo.sh", "--what"], capture_output=True, text=True, timeout=30)
    assert done.returncode == 2
    assert "Usage: bash deploy/demo.sh" in done.stderr


def test_unit_starts_the_daemon_as_it_is(unit):
    [(verb, flags)] = commands_in(unit["Service"]["ExecStart"])
    assert verb == "node"
    assert set(flags) <= verb_flags("node")
    assert unit["Service"]["Type"] == "notify"
    assert unit["Service"]["DynamicUser"] == "yes"
    assert unit["Service"]["Restart"] == "on-failure"
    assert unit["Service"]["StateDirectory"] == "exo-lite"
    assert unit["Service"]["CacheDirectory"] == "exo-lite"
    assert int(unit["Service"]["LimitNOFILE"]) >= WANTED_DESCRIPTORS[0]
    assert unit["Install"]["WantedBy"] == "multi-user.target"


def test_image_runs_the_daemon_without_privileges():
    text = (DEPLOY / "Dockerfile").read_text()
    assert re.search(r"^USER exo-lite$", text, re.MULTILINE)
    assert "/health" in text
    assert set(re.findall(r"EXO_LITE_[A-Z_]+", text)) <= known_variables()
    assert re.search(r'^ENTRYPOINT \["exo-lite"\]\nCMD \["node"\]$', text, re.MULTILINE)


def test_image_can_compile_the_kernels():
    """In the stage that runs, before it gives up its privileges."""
    stage = (DEPLOY / "Dockerfile").read_text().split("\nFROM ")[-1]
    packages = re.search(r"apt-get install [^&]*", stage.split("\nUSER ")[0])
    assert packages is not None
    assert {"gcc", "libc6-dev"} <= set(packages[0].split())


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="this machine has no systemd-analyze")
def test_unit_is_what_systemd_takes(tmp_path: Path):
    """As it stands, but for the program's path."""
    text = (DEPLOY / "exo-lite.service").read_text().replace("/opt/exo-lite/bin/exo-lite", "/bin/true")
    (tmp_path / "exo-lite.service").write_text(text)
    command = ["systemd-analyze", "verify", "--man=no", str(tmp_path / "exo-lite.service")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert [line for line in done.stderr.splitlines() if "exo-lite" in line] == []


def test_image_is_built_from_files_that_exist():
    kept = [line[1:] for line in (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines() if line.startswith("!")]
    assert [name for name in kept if not (ROOT / name).exists()] == []


def test_compose_has_three_nodes_that_name_each_other(compose):
    services = compose["services"]
    assert set(services) == {"node-a", "node-b", "node-c"}
    for name, service in services.items():
        assert service["command"] == ["node", "--name", name]
        environment = service["environment"]
        assert isinstance(environment, dict)
        assert set(environment) <= known_variables()
        assert environment["EXO_LITE_PEER"] == ",".join(f"{other}:52414" for other in services)


def test_compose_opens_http_to_this_machine_alone_and_only_with_a_key(compose):
    opened = {name: service for name, service in compose["services"].items() if "ports" in service}
    assert list(opened) == ["node-a"]
    assert opened["node-a"]["ports"] == ["127.0.0.1:52415:52415"]
    assert "EXO_LITE_API_KEY" in opened["node-a"]["environment"]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_scripts_are_sound_bash(script):
    done = subprocess.run(["bash", "-n", script], capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr


def test_ci_runs_the_suite():
    assert os.access(ROOT / ".ci/run", os.X_OK)
    assert "exec bash tests/run.sh" in (ROOT / ".ci/run").read_text()


def test_constraints_pin_torch_and_everything_that_is_needed():
    lines = (DEPLOY / "constraints.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    assert pins["torch"] == "2.13.0"
    needed = re.findall(r'^  "([a-z0-9-]+)[>=]', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    names = {name.lower().replace("_", "-") for name in pins}
    assert len(needed) > 30
    assert [name for name in needed if name not in names] == []
