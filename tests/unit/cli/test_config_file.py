from __future__ import annotations

import ast
from pathlib import Path

import click
import pytest

from exo_lite.cli.config_file import Verb, flags_of, program_config_option, verb_defaults
from exo_lite.cli.errors import WrongUsage
from exo_lite.cli.options import address, addresses, size


@click.command(cls=Verb)
@click.option("--cluster", default="default")
@click.option("--memory-cap", callback=size)
@click.option("--peer", "peers", multiple=True, callback=addresses)
@click.option("--no-mdns", is_flag=True)
@click.option("--http", callback=address)
@click.option("--threads", type=int)
def show(**values: object) -> None:
    click.echo(values)


@click.command(cls=Verb)
@click.option("--cluster")
def other(cluster: str) -> None:
    """Another verb, with one of the flags."""


@click.group(params=[program_config_option()], commands={"show": show, "other": other})
def program() -> None:
    """Two verbs."""


@pytest.fixture
def values(home, tmp_path):
    from click.testing import CliRunner

    def run(*args: str, file: str | None = None, env: dict[str, str] | None = None) -> dict[str, object]:
        if file is not None:
            (tmp_path / "config.toml").write_text(file)
            args = (*args, "--config", str(tmp_path / "config.toml"))
        result = CliRunner().invoke(program, ["show", *args], env=env)
        assert result.exit_code == 0, result.stderr
        found = ast.literal_eval(result.stdout)
        assert isinstance(found, dict)
        return found

    return run


def test_flag_before_environment_before_file_before_default(values):
    file, env = 'cluster = "file"', {"EXO_LITE_CLUSTER": "environment"}
    assert values()["cluster"] == "default"
    assert values(file=file)["cluster"] == "file"
    assert values(file=file, env=env)["cluster"] == "environment"
    assert values("--cluster", "flag", file=file, env=env)["cluster"] == "flag"


def test_table_of_a_verb_goes_before_the_top(values):
    assert values(file='cluster = "all"\n[show]\ncluster = "show"\n[other]\ncluster = "other"')["cluster"] == "show"


def test_default_file_is_read(values, home):
    (home / "exo-lite").mkdir(parents=True)
    (home / "exo-lite" / "config.toml").write_text('cluster = "lab"')
    assert values()["cluster"] == "lab"


def test_file_can_be_named_in_the_environment_and_before_the_verb(home, tmp_path):
    from click.testing import CliRunner

    (tmp_path / "a.toml").write_text('cluster = "a"')
    (tmp_path / "b.toml").write_text('cluster = "b"')
    env = {"EXO_LITE_CONFIG": str(tmp_path / "a.toml")}
    assert "'cluster': 'a'" in CliRunner().invoke(program, ["show"], env=env).stdout
    before = CliRunner().invoke(program, ["--config", str(tmp_path / "b.toml"), "show"], env=env)
    assert "'cluster': 'b'" in before.stdout


def test_each_kind_of_value_from_each_place(values):
    wanted = {
        "cluster": "default",
        "memory_cap": 6 * 2**30,
        "peers": ("a:1", "b:2"),
        "no_mdns": True,
        "http": ("127.0.0.1", 80),
        "threads": 3,
    }
    flags = ("--memory-cap", "6GiB", "--peer", "a:1", "--peer", "b:2", "--no-mdns", "--http", "127.0.0.1:80")
    file = 'memory-cap = "6GiB"\npeer = ["a:1", "b:2"]\nno_mdns = true\nhttp = "127.0.0.1:80"\nthreads = 3'
    env = {
        "EXO_LITE_MEMORY_CAP": "6GiB",
        "EXO_LITE_PEER": "a:1,b:2",
        "EXO_LITE_NO_MDNS": "1",
        "EXO_LITE_HTTP": "127.0.0.1:80",
        "EXO_LITE_THREADS": "3",
    }
    assert values(*flags, "--threads", "3") == wanted
    assert values(file=file) == wanted
    assert values(env=env) == wanted
    assert values(env={**env, "EXO_LITE_PEER": "a:1 b:2"}) == wanted
    assert values(file=file.replace('["a:1", "b:2"]', '"a:1, b:2"')) == wanted


@pytest.mark.parametrize(
    ("file", "cause"),
    [
        ("cluster = ", "cannot be read"),
        ("clutser = 'x'", "no verb has a flag --clutser"),
        ("[fly]\nhigh = 1", "[fly] is not a verb"),
        ("[show]\ncolour = 1", "`show` has no flag --colour"),
        ("[other]\nthreads = 1", "`other` has no flag --threads"),
        ("no-mdns = 'yes'", "must be true or false"),
        ("cluster = ['a']", "must be a text or a number"),
        ("threads = true", "must be a text or a number"),
        ("threads = 1.5", "'1.5' is not a valid integer"),
        ("memory-cap = 'lots'", "'lots' is not a size"),
        ("peer = 'nowhere'", "'nowhere' is not HOST:PORT"),
    ],
)
def test_wrong_files_are_refused_with_the_cause(home, tmp_path, file, cause):
    from click.testing import CliRunner

    path = tmp_path / "config.toml"
    path.write_text(file)
    result = CliRunner().invoke(program, ["show", "--config", str(path)])
    assert result.exit_code == 2
    assert cause in result.stderr.replace("\n", " ")


def test_missing_and_unreadable_files_are_refused(home, tmp_path):
    from click.testing import CliRunner

    missing = CliRunner().invoke(program, ["show", "--config", str(tmp_path / "no.toml")])
    assert missing.exit_code == 2
    assert "No such file" in missing.stderr
    (tmp_path / "latin.toml").write_bytes(b"cluster = '\xe9'")
    assert CliRunner().invoke(program, ["show", "--config", str(tmp_path / "latin.toml")]).exit_code == 2


def test_a_flag_of_another_verb_at_the_top_is_no_mistake():
    verbs = {"show": flags_of(show), "other": flags_of(other)}
    assert verb_defaults({"threads": 2, "cluster": "x"}, "other", verbs) == {"cluster": "x"}
    with pytest.raises(WrongUsage):
        verb_defaults({"height": 2}, "other", verbs)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("127.0.0.1:0", ("127.0.0.1", 0)), ("[::1]:52415", ("::1", 52415)), ("lab.local:65535", ("lab.local", 65535))],
)
def test_addresses(text, expected):
    assert address(click.Context(show), show.params[0], text) == expected


@pytest.mark.parametrize("text", ["", "host", ":1", "host:", "host:x", "host:65536", "::1:80", "host:-1"])
def test_wrong_addresses_are_refused(text):
    with pytest.raises(click.BadParameter, match="HOST:PORT"):
        address(click.Context(show), show.params[0], text)


def test_configuration_folder_is_platformdirs_own(home):
    from platformdirs import user_config_path

    assert Path(user_config_path("exo-lite", appauthor=False)) == home / "exo-lite"
