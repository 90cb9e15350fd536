"""What a daemon's root builds, for tests of its parts on this machine."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from exo_lite.domain.credentials import Credentials
from exo_lite.domain.ids import BootId, NodeId
from exo_lite.domain.node import PROTOCOL_VERSION, NodeIdentity
from exo_lite.node.system_clock import SystemClock
from exo_lite.transport.node_server import NodeHandlers
from exo_lite.transport.peers import GrpcPeers

PEERS = GrpcPeers(Credentials())
CLOCK = SystemClock()
NOBODY = NodeIdentity(NodeId("nobody"), BootId("0"), "nobody", "none", "0", PROTOCOL_VERSION, (), "")


def handlers_of(fake: Any) -> NodeHandlers:
    """One object in place of a daemon's parts: it has the methods that a test has other nodes call."""
    identity = getattr(fake, "identity", lambda: NOBODY)
    return NodeHandlers(identity, *(fake,) * (len(fields(NodeHandlers)) - 1))
