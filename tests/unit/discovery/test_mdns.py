from __future__ import annotations

from dataclasses import replace

import pytest
from zeroconf.asyncio import AsyncServiceInfo

from exo_lite.discovery.mdns import (
    SERVICE_TYPE,
    Announcement,
    Sighting,
    multicast_interfaces,
    read_sighting,
    service_info,
)
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


def test_a_service_without_an_id_and_a_name_is_seen_all_the_same():
    info = AsyncServiceInfo(SERVICE_TYPE, NAME, properties={"cluster": "home", "at": "10.0.0.9:7"})
    assert read_sighting(info, "home") == Sighting(None, None, ("10.0.0.9:7",))


def test_a_long_name_is_cut():
    identity = replace(announcement("10.0.0.1:52414").identity, name="n" * 300)
    sighting = read_sighting(service_info(Announcement(identity, 52414, ("10.0.0.1",)), NAME), "home")
    assert sighting is not None
    assert sighting.name == "n" * 64


def test_bytes_that_are_no_text_are_read_all_the_same():
    """Anybody on the network can announce anything: the handshake finds out who it is."""
    properties = {"id": b"\xff", "name": b"\xfe", "cluster": b"home", "at": b"10.0.0.9:7"}
    info = AsyncServiceInfo(SERVICE_TYPE, NAME, properties=properties)
    assert read_sighting(info, "home") == Sighting(NodeId("\ufffd"), "\ufffd", ("10.0.0.9:7",))
    assert read_sighting(AsyncServiceInfo(SERVICE_TYPE, NAME, properties={"cluster": b"\xff"}), "home") is None


@pytest.mark.parametrize("hosts", [("127.0.0.1",), ("::1",), ("127.0.0.1", "::1")])
def test_loopback_alone_stays_on_loopback(hosts: tuple[str, ...]):
    assert multicast_interfaces(hosts) == ["127.0.0.1"]


def test_an_address_that_cannot_join_does_not_spoil_it_for_the_others():
    assert multicast_interfaces(["192.0.2.1", "127.0.0.1"]) == ["127.0.0.1"]
    with pytest.raises(OSError):  # noqa: PT011  # the text is the system's
        multicast_interfaces(["192.0.2.1"])
