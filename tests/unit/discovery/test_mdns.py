from __future__ import annotations

import pytest
from zeroconf.asyncio import AsyncServiceInfo

from exo_lite.discovery.mdns import SERVICE_TYPE, Announcement, Sighting, read_sighting, service_info
from exo_lite.domain.ids import BootId, NodeId
from exo_lite.domain.node import PROTOCOL_VERSION, NodeIdentity

NAME = f"a-boot.{SERVICE_TYPE}"


def announcement(*addresses: str, hosts: tuple[str, ...] = ("10.0.0.1",)) -> Announcement:
    identity = NodeIdentity(
        NodeId("a"), BootId("boot"), "attic", "home", "1.2.3", PROTOCOL_VERSION, addresses, "127.0.0.1:52415"
    )
    return Announcement(identity, 52414, hosts)


@pytest.mark.parametrize(
    ("addresses", "hosts"),
    [
        (("10.0.0.1:52414",), ("10.0.0.1",)),
        (
            ("10.0.0.1:52414", "[2001:db8::1]:52414", "[fe80::1%eth0]:52414"),
            ("10.0.0.1", "2001:db8::1", "fe80::1%eth0"),
        ),
        (("attic.example:9", "203.0.113.7:9"), ("10.0.0.1",)),
    ],
)
def test_a_node_is_seen_as_it_announces_itself(addresses: tuple[str, ...], hosts: tuple[str, ...]):
    info = service_info(announcement(*addresses, hosts=hosts), NAME)
    assert read_sighting(info, "home") == Sighting(NodeId("a"), "attic", addresses)


def test_addresses_that_do_not_fit_are_left_out_from_the_last():
    addresses = [f"[2001:db8:1234:5678:9abc:def0:1234:{number:04x}]:52414" for number in range(8)]
    sighting = read_sighting(service_info(announcement(*addresses), NAME), "home")
    assert sighting is not None
    assert list(sighting.addresses) == addresses[: len(sighting.addresses)]
    assert len(sighting.addresses) >= 4


def test_nodes_of_another_cluster_are_not_seen():
    assert read_sighting(service_info(announcement("10.0.0.1:52414"), NAME), "office") is None


@pytest.mark.parametrize("listed", [b"", b"nonsense", b"10.0.0.9:0,:7,attic:99999,["])
def test_what_is_no_address_is_passed_over_for_those_of_the_service(listed: bytes):
    properties = {"id": "a", "cluster": "home", "at": listed}
    info = AsyncServiceInfo(SERVICE_TYPE, NAME, port=7, parsed_addresses=["10.0.0.9"], properties=properties)
    assert read_sighting(info, "home") == Sighting(NodeId("a"), None, ("10.0.0.9:7",))


def test_a_service_without_any_address_is_nobody():
    assert read_sighting(AsyncServiceInfo(SERVICE_TYPE, NAME, properties={"cluster": "home"}), "home") is None
