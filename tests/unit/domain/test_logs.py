from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from exo_lite.domain.ids import ModelId
from exo_lite.domain.logs import MAX_LINES_OF_A_PLACE, set_up_logging
from exo_lite.domain.shard import Shard


@pytest.fixture
def log() -> Iterator[logging.Logger]:
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    yield logging.getLogger("exo_lite.tests")
    root.handlers[:] = before
    root.setLevel(level)


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_a_place_that_warns_without_end_does_not_fill_the_log(
    log: logging.Logger, capsys: pytest.CaptureFixture[str], log_format: str
):
    set_up_logging("json" if log_format == "json" else "text", source="a")
    for number in range(5000):
        log.error("the %d-th failure", number)
    log.error("another place")
    for number in range(200):
        log.info("state %d", number)
    lines = capsys.readouterr().err.splitlines()
    assert sum("failure" in line for line in lines) == MAX_LINES_OF_A_PLACE
    assert sum("another place" in line for line in lines) == 1
    assert sum("state" in line for line in lines) == 200


def fail() -> None:
    raise ValueError("the cause")


def test_text_has_the_time_the_level_the_source_and_the_fields(
    log: logging.Logger, capsys: pytest.CaptureFixture[str]
) -> None:
    set_up_logging("text", source="attic")
    log.info("a model is %s", "ready", extra={"model": "m", "num_layers": 30})
    line = capsys.readouterr().err
    assert re.fullmatch(r"\d\d:\d\d:\d\d\.\d{3} info    attic: a model is ready model=m num_layers=30\n", line)


def test_json_is_one_object_a_line(log: logging.Logger, capsys: pytest.CaptureFixture[str]) -> None:
    set_up_logging("json", source="attic")
    shard = Shard(ModelId("m"), 0, 1, 2)
    log.warning("a shard\nis %s", "lost", extra={"shard": shard, "after_s": 1.5})
    [line] = capsys.readouterr().err.splitlines()
    document = json.loads(line)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?\+00:00", document.pop("time"))
    assert document == {
        "level": "warning",
        "source": "attic",
        "event": "a shard\nis lost",
        "shard": "m[0..1]",
        "after_s": 1.5,
    }


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_an_exception_comes_with_its_traceback(
    log: logging.Logger, capsys: pytest.CaptureFixture[str], log_format: str
) -> None:
    set_up_logging("json" if log_format == "json" else "text", source="attic")
    try:
        fail()
    except ValueError:
        log.exception("a task failed")
    text = capsys.readouterr().err
    traceback = json.loads(text)["exception"] if log_format == "json" else text.partition("a task failed\n")[2]
    assert traceback.startswith("Traceback")
    assert traceback.strip().endswith("ValueError: the cause")


def test_the_line_after_those_left_out_says_how_many(
    log: logging.Logger, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s = 0.0
    monkeypatch.setattr("exo_lite.domain.logs.time", SimpleNamespace(monotonic=lambda: now_s))
    set_up_logging("json", source="attic")
    for number in range(MAX_LINES_OF_A_PLACE + 7):
        if number == MAX_LINES_OF_A_PLACE + 6:
            now_s = 1000.0
        log.error("again")
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert len(lines) == MAX_LINES_OF_A_PLACE + 1
    assert lines[-1]["left_out"] == 6
    assert all("left_out" not in line for line in lines[:-1])
