from __future__ import annotations

import resource

import pytest

from exo_lite.node.descriptors import max_peer_connections, raise_descriptor_limit

INFINITY = resource.RLIM_INFINITY


@pytest.mark.parametrize(
    ("soft", "hard", "refuses_beyond", "expected"),
    [
        (256, 524_288, INFINITY, 65_536),
        (256, INFINITY, 10_240, 10_240),  # macOS
        (256, 2_000, INFINITY, 2_000),
        (256, 256, INFINITY, 256),
        (1_000_000, 1_000_000, INFINITY, 1_000_000),
        (INFINITY, INFINITY, INFINITY, 65_536),
        (1024, 4096, 0, 1024),  # not allowed at all
    ],
)
def test_the_soft_limit_is_raised_as_far_as_it_may(
    monkeypatch: pytest.MonkeyPatch, soft: int, hard: int, refuses_beyond: int, expected: int
):
    limits = [(soft, hard)]

    def setrlimit(kind: int, wanted: tuple[int, int]) -> None:
        assert (kind, wanted[1]) == (resource.RLIMIT_NOFILE, hard)
        if refuses_beyond != INFINITY and wanted[0] > refuses_beyond:
            raise ValueError("not allowed to raise maximum limit")
        limits.append(wanted)

    monkeypatch.setattr(resource, "getrlimit", lambda kind: limits[-1])
    monkeypatch.setattr(resource, "setrlimit", setrlimit)
    assert raise_descriptor_limit() == expected
    assert limits[-1] == (soft, hard) or limits[-1] == (expected, hard)


@pytest.mark.parametrize(("soft", "expected"), [(32, 8), (256, 32), (1024, 128), (65_536, 1024), (INFINITY, 1024)])
def test_peers_may_take_an_eighth(monkeypatch: pytest.MonkeyPatch, soft: int, expected: int):
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (soft, INFINITY))
    assert max_peer_connections() == expected
