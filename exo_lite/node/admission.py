"""Admission to the cluster, and what to tell people about nodes that are refused."""

from __future__ import annotations

from exo_lite.domain.cluster_state import Member
from exo_lite.domain.errors import (
    ConnectionRefused,
    DuplicateNode,
    ExoLiteError,
    IncompatibleVersion,
    LargePacketsLost,
    NoRoute,
    NotReachable,
    OwnAddress,
    PortSilent,
    WrongCluster,
)
from exo_lite.domain.node import NodeIdentity
from exo_lite.node import hints
from exo_lite.node.peers import Peers

IDENTIFY_TIMEOUT_S = 1.0


def check_identity(ours: NodeIdentity, theirs: NodeIdentity) -> None:
    """Raises HandshakeRefused with the cause."""
    if theirs.boot_id == ours.boot_id:
        raise OwnAddress(f"{ours.name} called itself at {theirs.address}")
    if theirs.cluster != ours.cluster:
        raise WrongCluster(f"{theirs.name} belongs to cluster {theirs.cluster!r}, {ours.name} to {ours.cluster!r}")
    if theirs.protocol_version != ours.protocol_version:
        raise IncompatibleVersion(
            f"{theirs.name} runs exo-lite {theirs.version} (protocol {theirs.protocol_version}), "
            f"{ours.name} runs {ours.version} (protocol {ours.protocol_version})"
        )
    if theirs.node_id == ours.node_id:
        raise DuplicateNode(f"{theirs.name} and {ours.name} have the same node id {ours.node_id}")


async def check_not_duplicate(peers: Peers, known: Member | None, theirs: NodeIdentity) -> None:
    """A new boot of a known id is a restart, unless the old boot still answers. Raises DuplicateNode."""
    if known is None or known.status.identity.boot_id == theirs.boot_id:
        return
    identity = known.status.identity
    try:
        async with peers.node(known.address) as client:
            answer = await client.identify(timeout_s=IDENTIFY_TIMEOUT_S)
    except ExoLiteError:
        return
    if answer.boot_id == identity.boot_id:
        raise DuplicateNode(
            f"{theirs.name} at {theirs.address} has the node id {theirs.node_id} of {identity.name} at {known.address}"
        )


def fix_for(error: ExoLiteError, ports: str) -> str:
    """The way out of what keeps a peer away. `ports`: those that a node needs, for people."""
    open_ports = f"allow {ports} through the firewall on both machines"
    fixes: dict[type[ExoLiteError], str] = {
        WrongCluster: "start both with the same --cluster, or remove the --peer",
        IncompatibleVersion: "install the same exo-lite version on both",
        DuplicateNode: "a data folder was copied: delete the file node_id in one of them and start it again",
        NotReachable: f"set --host or --advertise to an address that the others reach, and {open_ports}",
        ConnectionRefused: "start `exo-lite node` there; if it runs, it uses another --port",
        PortSilent: f"check that the machine is on and that no firewall blocks it: {open_ports}",
        LargePacketsLost: hints.fix_for(LargePacketsLost.code),
        NoRoute: "check that both machines are on the same network; --host and --advertise set the address of a node",
    }
    return fixes.get(
        type(error), f"it accepts connections but does not answer: it may be busy; if it is not, {open_ports}"
    )
