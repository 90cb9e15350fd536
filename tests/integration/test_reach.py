"""How a port looks from here: what is told of one that cannot be reached."""

from __future__ import annotations

import socket
from contextlib import closing

import pytest

from exo_lite.domain.errors import ConnectionRefused, NodeLost, NoRoute
from exo_lite.transport.reach import check_port


async def test_a_port_where_somebody_listens_is_reached():
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        await check_port("{}:{}".format(*server.getsockname()), timeout_s=5.0)


async def test_a_port_where_nobody_listens_refuses():
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        address = "{}:{}".format(*server.getsockname())
    with pytest.raises(ConnectionRefused, match=rf"{address} refuses connections: nothing listens there"):
        await check_port(address, timeout_s=5.0)


async def test_a_name_that_nobody_has_leads_nowhere():
    with pytest.raises(NoRoute, match=r"no machine is called nobody\.invalid here"):
        await check_port("nobody.invalid:1", timeout_s=20.0)


@pytest.mark.parametrize("text", ["", "attic", "attic:port"])
async def test_what_is_no_address_is_said_to_be_none(text: str):
    with pytest.raises(NodeLost, match="is not HOST:PORT"):
        await check_port(text, timeout_s=5.0)
