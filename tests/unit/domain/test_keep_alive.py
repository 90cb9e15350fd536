from __future__ import annotations

import pytest

from exo_lite.domain.errors import InvalidRequest
from exo_lite.domain.keep_alive import FOR_EVER, format_duration, parse_keep_alive


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (300, 300.0),
        (0, 0.0),
        (2.5, 2.5),
        (-1, FOR_EVER),
        ("300", 300.0),
        (" 5m ", 300.0),
        ("1h30m", 5400.0),
        ("1.5s", 1.5),
        ("500ms", 0.5),
        ("0", 0.0),
        ("-1", FOR_EVER),
        ("-1s", FOR_EVER),
    ],
)
def test_seconds_and_durations(value: str | float, seconds: float):
    assert parse_keep_alive(value) == seconds


@pytest.mark.parametrize("value", ["", "soon", "5 minutes", "5m3", "1e3", "--1", "m", "nan", "9" * 40, float("nan")])
def test_anything_else_is_refused_by_name(value: str | float):
    with pytest.raises(InvalidRequest, match="5m") as caught:
        parse_keep_alive(value)
    assert caught.value.param == "keep_alive"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (45, "45 s"),
        (0.25, "0.2 s"),
        (90, "1.5 min"),
        (300, "5 min"),
        (5400, "1.5 h"),
        (FOR_EVER, "for ever"),
    ],
)
def test_durations_read_in_the_greatest_unit(seconds: float, text: str):
    assert format_duration(seconds) == text
