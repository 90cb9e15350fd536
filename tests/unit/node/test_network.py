from __future__ import annotations

import socket
from types import SimpleNamespace

import psutil
import pytest

from exo_lite.domain.errors import StartupError
from exo_lite.node import network
from exo_lite.node.network import Binding, find_binding, reachable_forms, usable_hosts

Interfaces = dict[str, list[str]]


@pytest.fixture
def interfaces(monkeypatch: pytest.MonkeyPatch):
    """Replaces this machine's interfaces by those given as name: addresses.

    Names in `down` are not up; addresses that are `tentative` cannot be bound yet.
    """

    def install(addresses: Interfaces, down: tuple[str, ...] = (), tentative: tuple[str, ...] = ()) -> None:
        found = {name: [_address(one) for one in values] for name, values in addresses.items()}
        stats = {name: SimpleNamespace(isup=name not in down) for name in addresses}
        monkeypatch.setattr(psutil, "net_if_addrs", lambda: found)
        monkeypatch.setattr(psutil, "net_if_stats", lambda: stats)
        monkeypatch.setattr(network, "_can_be_bound", lambda host: host not in tentative)

    return install


def _address(text: str) -> SimpleNamespace:
    return SimpleNamespace(family=socket.AF_INET6 if ":" in text else socket.AF_INET, address=text)


VIRTUAL: Interfaces = {
    "lo": ["127.0.0.1", "::1"],
    "docker0": ["172.17.0.1"],
    "br-5f3c2a": ["172.18.0.1"],
    "veth12ab": ["169.254.3.4"],
    "virbr0": ["192.168.122.1"],
    "cni0": ["10.244.0.1"],
    "flannel.1": ["10.244.0.0"],
    "podman0": ["10.88.0.1"],
    "lxcbr0": ["10.0.3.1"],
}


def test_loopback_and_container_bridges_are_passed_over(interfaces):
    interfaces({**VIRTUAL, "wlp3s0": ["fe80::1", "192.168.1.20"], "eth9": ["10.1.1.1"]})
    assert usable_hosts() == ("192.168.1.20", "10.1.1.1")


def test_a_bridge_that_an_administrator_made_is_real(interfaces):
    interfaces({"lo": ["127.0.0.1"], "br0": ["192.168.1.5"]})
    assert usable_hosts() == ("192.168.1.5",)


def test_interfaces_that_are_down_are_passed_over(interfaces):
    interfaces({"eth0": ["10.0.0.5"], "en0": ["10.0.0.6"]}, down=("eth0",))
    assert usable_hosts() == ("10.0.0.6",)


def test_an_address_of_one_link_counts_where_its_interface_has_no_other_and_comes_last(interfaces):
    interfaces(
        {"eth0": ["169.254.7.7"], "eth1": ["fe80::5"], "eth2": ["fe80::6%eth2", "2001:db8::6"], "en0": ["10.0.0.6"]}
    )
    assert usable_hosts() == ("10.0.0.6", "2001:db8::6", "169.254.7.7", "fe80::5%eth1")


def test_an_interface_that_left_meanwhile_is_passed_over(interfaces, monkeypatch: pytest.MonkeyPatch):
    interfaces({"eth0": ["10.0.0.5"]})
    monkeypatch.setattr(psutil, "net_if_stats", dict)
    assert usable_hosts() == ()


def test_overlays_are_announced_last_whatever_their_index(interfaces):
    interfaces(
        {
            "lo": ["127.0.0.1"],
            "tailscale0": ["100.64.0.7", "fe80::9"],
            "wg0": ["10.8.0.2"],
            "cgnat0": ["100.100.3.4"],
            "eth0": ["192.168.1.20", "2001:db8::20"],
        }
    )
    assert usable_hosts() == ("192.168.1.20", "2001:db8::20", "100.64.0.7", "10.8.0.2", "100.100.3.4")


def test_without_a_real_interface_a_node_announces_loopback(interfaces):
    interfaces(VIRTUAL)
    assert find_binding(None, ()).addresses(52414, usable_hosts()) == ("127.0.0.1:52414",)


HOSTS = ("192.168.1.20", "2001:db8::20")


@pytest.mark.parametrize(
    ("host", "bound", "addresses"),
    [
        (None, "::", ("192.168.1.20:7", "[2001:db8::20]:7")),
        ("0.0.0.0", "0.0.0.0", ("192.168.1.20:7",)),
        ("::", "::", ("192.168.1.20:7", "[2001:db8::20]:7")),
        ("[::]", "::", ("192.168.1.20:7", "[2001:db8::20]:7")),
        ("192.168.1.20", "192.168.1.20", ("192.168.1.20:7",)),
        ("localhost", "127.0.0.1", ("127.0.0.1:7",)),
        ("::1", "::1", ("[::1]:7",)),
        ("[::1]", "::1", ("[::1]:7",)),
        ("fe80::1%eth0", "fe80::1%eth0", ("[fe80::1%eth0]:7",)),
        ("attic", "192.168.1.20", ("192.168.1.20:7",)),
    ],
)
def test_what_a_host_binds_and_announces(host: str | None, bound: str, addresses: tuple[str, ...]):
    binding = find_binding(host, (), resolve=lambda name: {"attic": ["192.168.1.20"]}[name])
    assert (binding.host, binding.addresses(7, HOSTS)) == (bound, addresses)


def test_a_name_that_nobody_knows_or_that_is_loopback_here_is_refused():
    def unknown(name: str) -> list[str]:
        raise socket.gaierror(-2, "Name or service not known")

    with pytest.raises(StartupError, match="--host cellar: no such name"):
        find_binding("cellar", (), resolve=unknown)
    with pytest.raises(StartupError, match=r"--host attic is 127\.0\.1\.1 here, where no other machine reaches it"):
        find_binding("attic", (), resolve=lambda name: ["127.0.1.1"])


def test_advertised_addresses_are_announced_in_place_of_those_bound():
    binding = find_binding(None, ("203.0.113.7", "attic.example:9", "2001:db8::1", "[2001:db8::2]:9"))
    announced = ("203.0.113.7:7", "attic.example:9", "[2001:db8::1]:7", "[2001:db8::2]:9")
    assert binding.addresses(7, HOSTS) == announced
    assert binding.own_host == "127.0.0.1"


def test_a_machine_reaches_its_own_servers_where_they_are_bound():
    assert [Binding(host).own_host for host in ("::", "0.0.0.0", "::1", "10.0.0.5")] == [
        *("127.0.0.1", "127.0.0.1", "::1", "10.0.0.5")
    ]


def test_a_scope_is_of_the_machine_that_dials(interfaces):
    interfaces({"lo": ["127.0.0.1"], "wlan0": ["10.0.0.1", "fe80::a%wlan0"], "eth3": ["fe80::b%eth3"]})
    assert reachable_forms(("[fe80::7%en5]:52414", "10.0.0.7:52414", "nonsense")) == (
        "[fe80::7%wlan0]:52414",
        "[fe80::7%eth3]:52414",
        "10.0.0.7:52414",
    )


def test_where_a_peer_calls_from_is_one_more_address_of_it(interfaces):
    interfaces({})
    assert reachable_forms(("10.0.0.7:9", "10.1.0.7:9"), seen_from="fe80::7%3") == (
        *("10.0.0.7:9", "10.1.0.7:9", "[fe80::7%3]:9"),
    )


def test_an_address_that_cannot_be_bound_yet_is_not_announced(interfaces):
    interfaces({"eth0": ["fe80::a%eth0"]}, tentative=("fe80::a%eth0",))
    assert usable_hosts() == ()
    interfaces({"eth0": ["fe80::a%eth0"]})
    assert usable_hosts() == ("fe80::a%eth0",)
