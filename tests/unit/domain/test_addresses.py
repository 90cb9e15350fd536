from __future__ import annotations

import pytest

from exo_lite.domain.addresses import is_loopback, join_address, split_address


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("10.0.0.2", "10.0.0.2:52414"),
        ("attic.local", "attic.local:52414"),
        ("::1", "[::1]:52414"),
        ("fe80::1%eth0", "[fe80::1%eth0]:52414"),
    ],
)
def test_an_address_is_joined_and_split(host: str, address: str):
    assert join_address(host, 52414) == address
    assert split_address(address) == (host, 52414)


@pytest.mark.parametrize("text", ["", "attic", "attic:", "[::1]"])
def test_what_has_no_port_is_no_address(text: str):
    with pytest.raises(ValueError, match="invalid literal"):
        split_address(text)


@pytest.mark.parametrize(
    ("hosts", "expected"),
    [(("127.0.0.1", "127.9.9.9", "::1", "localhost"), True), (("0.0.0.0", "192.168.1.1", "attic", ""), False)],
)
def test_loopback_hosts(hosts: tuple[str, ...], expected: bool):
    assert [is_loopback(host) for host in hosts] == [expected] * len(hosts)
