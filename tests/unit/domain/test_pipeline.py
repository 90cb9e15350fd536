from __future__ import annotations

import pytest

from exo_lite.domain.errors import MalformedMessage
from exo_lite.domain.ids import Epoch, ModelId, NodeId
from exo_lite.domain.pipeline import ConnectOrder, Endpoint

HOSTS = {NodeId("b"): "10.0.0.2", NodeId("c"): "fe80::3%eth0"}


def order(previous: Endpoint | None, tail: Endpoint | None) -> ConnectOrder:
    return ConnectOrder(ModelId("m"), Epoch(1), 0, 3, previous, tail, "b")


def test_hops_are_at_the_hosts_by_which_a_node_reaches_them():
    routed = order(Endpoint("b", ":17", NodeId("b")), Endpoint("c", ":18", NodeId("c"))).routed(HOSTS.__getitem__)
    assert [endpoint.address for endpoint in routed.endpoints] == ["10.0.0.2:17", "[fe80::3%eth0]:18"]


def test_a_hop_that_names_no_node_is_left_as_it_is():
    as_given = order(None, Endpoint("c", "10.0.0.9:18"))
    assert as_given.routed(HOSTS.__getitem__) == as_given


def test_a_hop_without_a_port_is_malformed():
    with pytest.raises(MalformedMessage, match="'nowhere' of b is not HOST:PORT"):
        order(Endpoint("b", "nowhere", NodeId("b")), None).routed(HOSTS.__getitem__)
