"""A check for large packets: some networks drop them silently, and only a large message shows it."""

from __future__ import annotations

from exo_lite.domain.errors import LargePacketsLost, NodeLost
from exo_lite.node.peers import PeerNode, Peers

LARGE_BYTES = 8 * 1024
"""Several packets of any usual network's size."""


async def check_large_messages(peers: Peers, client: PeerNode, name: str, *, timeout_s: float) -> None:
    """Raises LargePacketsLost, or NodeLost where small messages are not answered either. Needs an answer before."""
    try:
        await client.identify(timeout_s=timeout_s, padding_bytes=LARGE_BYTES)
    except NodeLost as error:
        async with peers.node(client.address) as another:  # what is lost blocks the connection for what comes after
            await another.identify(timeout_s=timeout_s)
        raise LargePacketsLost(
            f"{name} at {client.address} answers small messages, but none of {LARGE_BYTES // 1024} KiB: "
            "the network between the two loses packets as large as their MTU"
        ) from error
