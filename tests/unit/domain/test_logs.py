from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from exo_lite.domain.logs import MAX_LINES_OF_A_PLACE, set_up_logging


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
