"""Requests are counted while they last, and the leader hears at once of a model's first and last one."""

from __future__ import annotations

from contextlib import suppress

from exo_lite.domain.errors import NotReady
from exo_lite.domain.ids import ModelId
from exo_lite.node.cluster import Cluster
from exo_lite.node.request_counts import RequestCounts
from tests.unit.node.cluster_states import MODEL, cluster, node


def test_requests_are_counted_while_they_last_and_the_first_and_the_last_are_told():
    seen = Cluster(cluster(node("a")))
    counts, sequence = RequestCounts(seen), seen.state.self_status.sequence

    def told() -> tuple[dict[ModelId, int], int]:
        status = seen.state.self_status
        return dict(status.num_requests), status.sequence - sequence

    with counts.hold(MODEL):
        assert told() == ({MODEL: 1}, 1)
        with suppress(NotReady), counts.hold(MODEL):
            assert (counts.num_requests, told()[1]) == ({MODEL: 2}, 1)
            raise NotReady("broken off")
        assert (counts.num_requests, told()[1]) == ({MODEL: 1}, 1)
    assert (counts.num_requests, told()) == ({}, ({}, 2))
    with counts.hold(MODEL):
        assert told() == ({MODEL: 1}, 3)
