from __future__ import annotations

import pytest

from exo_lite.node.routes import Route, best

CARD, OVERLAY = "192.168.1.20:52414", "100.64.0.7:52414"


@pytest.mark.parametrize(
    ("card_ms", "overlay_ms", "expected"),
    [(0.4, 0.3, CARD), (0.4, 12.0, CARD), (3.0, 1.2, OVERLAY), (40.0, 30.0, CARD), (40.0, 20.0, OVERLAY)],
)
def test_the_fastest_way_wins_and_among_those_about_as_fast_the_first(card_ms: float, overlay_ms: float, expected: str):
    assert best([Route(CARD, card_ms), Route(OVERLAY, overlay_ms)]).address == expected
