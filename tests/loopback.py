"""What a daemon's root builds, for tests of its parts on this machine."""

from exo_lite.domain.credentials import Credentials
from exo_lite.node.system_clock import SystemClock
from exo_lite.transport.peers import GrpcPeers

PEERS = GrpcPeers(Credentials())
CLOCK = SystemClock()
