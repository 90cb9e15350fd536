"""The real peers factory, for tests that call and serve on this machine."""

from exo_lite.domain.credentials import Credentials
from exo_lite.transport.peers import GrpcPeers

PEERS = GrpcPeers(Credentials())
