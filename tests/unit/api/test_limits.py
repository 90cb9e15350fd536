from __future__ import annotations

import pytest

from exo_lite.api.limits import MAX_CONNECTIONS, MAX_EVENT_STREAMS, MIN_CONNECTIONS, HttpLimits, http_limits


@pytest.mark.parametrize("num_descriptors", [16, 64, 128, 256, 1024, 4096, 65_536, 2**31])
def test_limits_leave_descriptors_for_the_rest_and_connections_for_probes(num_descriptors: int):
    limits = http_limits(num_descriptors)
    assert MIN_CONNECTIONS <= limits.connections <= MAX_CONNECTIONS
    assert limits.connections == MIN_CONNECTIONS or limits.connections <= num_descriptors - 96
    assert 1 <= limits.event_streams <= limits.requests // 2
    assert limits.event_streams <= MAX_EVENT_STREAMS
    assert limits.requests <= limits.connections - 2


def test_with_descriptors_enough_the_limits_are_the_usual_ones():
    assert http_limits(65_536) == HttpLimits()
