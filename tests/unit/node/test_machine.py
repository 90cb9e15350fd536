from __future__ import annotations

from types import SimpleNamespace

import psutil
import pytest

from exo_lite.node.machine import default_memory_bytes


@pytest.mark.parametrize(("free_gib", "expected_gib"), [(0.5, 0.0), (4, 3.0), (64, 57.6)])
def test_the_memory_offered_leaves_a_reserve(monkeypatch: pytest.MonkeyPatch, free_gib: float, expected_gib: float):
    available = int(free_gib * 2**30)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=available))
    assert default_memory_bytes() == pytest.approx(expected_gib * 2**30, abs=1)
