from __future__ import annotations

import pytest

from exo_lite.domain.errors import MalformedMessage
from exo_lite.domain.ids import Epoch, ModelId, NodeId
from exo_lite.domain.pipeline import ConnectOrder, Hop

HOSTS = {NodeId("b"): "10.0.0.2", NodeId("c"): "fe80::3%eth0"}


def order(previous: Hop | None, tail: Hop | None) -> ConnectOrder:
    return ConnectOrder(ModelId("m"), Epoch(1), 0, 3, previous, tail, "b")


def test_hops_are_at_the_hosts_by_which_a_node_reaches_them():
    routed = order(Hop("b", ":17", NodeId("b")), Hop("c", ":18", NodeId("c"))).routed(HOSTS.__getitem__)
    assert [hop.address for hop in routed.hops] == ["10.0.0.2:17", "[fe80::3%eth0]:18"]


def test_a_hop_that_names_no_node_is_left_as_it_is():
    as_given = order(None, Hop("c", "10.0.0.9:18"))
    assert as_given.routed(HOSTS.__getitem__) == as_given


def test_a_hop_without_a_port_is_malformed():
    with pytest.raises(MalformedMessage, match="'nowhere' of b is not HOST:PORT"):
        order(Hop("b", "nowhere", NodeId("b")), None).routed(HOSTS.__getitem__)
