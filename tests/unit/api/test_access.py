from __future__ import annotations

import pytest
from starlette.datastructures import Headers

from exo_lite.api.access import given_key, is_host_allowed, is_same_origin


@pytest.mark.parametrize(
    ("host", "is_allowed"),
    [
        ("daemon.test", True),
        ("DAEMON.test:52415", True),
        ("127.0.0.1:52415", True),
        ("[::1]:52415", True),
        ("10.1.2.3", True),
        ("evil.example", False),
        ("daemon.test.evil.example", False),
        ("127.0.0.1.evil.example", False),
        ("[bad", False),
        ("", False),
    ],
)
def test_hosts(host: str, is_allowed: bool) -> None:
    assert is_host_allowed(host, ["daemon.test"]) is is_allowed


def test_any_host_can_be_allowed() -> None:
    assert is_host_allowed("evil.example", ["*"])


@pytest.mark.parametrize(
    ("origin", "is_same"),
    [(None, True), ("http://h:1", True), ("http://evil.example", False), ("null", False), ("http://h:2", False)],
)
def test_origins(origin: str | None, is_same: bool) -> None:
    assert is_same_origin(origin, "h:1") is is_same


@pytest.mark.parametrize(
    ("headers", "key"),
    [
        ({}, ""),
        ({"authorization": "Bearer one"}, "one"),
        ({"x-key": " two "}, "two"),
        ({"authorization": "Bearer one", "x-key": "two"}, "one"),
        ({"authorization": "Basic one", "x-key": "two"}, "two"),
        ({"x-other-key": "three"}, ""),
    ],
)
def test_the_key_is_read_from_authorization_or_from_a_header_of_the_dialect(headers: dict[str, str], key: str) -> None:
    assert given_key(Headers(headers), ["x-key"]) == key
