"""Watches another stage's process while neither it nor this one reads the stream between the two.

A connection of its own carries nothing but gRPC's keepalive pings, which both processes answer on threads that never
compute. So a step may take minutes and is no loss, and a process that is killed, stopped or cut off is noticed while
one is being computed.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress

import grpc

from exo_lite.domain.errors import ConnectionRefused, NodeLost
from exo_lite.domain.pipeline import Endpoint

NOTICING_SHARE = 0.75
"""Share of the silence until the connection counts as broken; the rest is for an attempt to open it anew."""


async def until_silent(endpoint: Endpoint, channel: grpc.aio.Channel, *, silence_s: float) -> NodeLost:
    """Wait until an endpoint has not answered for `silence_s`, or refuses connections; return what happened.

    `channel` leads there and breaks after NOTICING_SHARE of the silence. A connection that breaks and can be opened
    anew in the rest of it is no loss.
    """
    peer = f"{endpoint.name} ({endpoint.address})"
    patience_s = silence_s
    while await _is_connected_within(channel, patience_s):
        await channel.wait_for_state_change(grpc.ChannelConnectivity.READY)
        patience_s = silence_s * (1 - NOTICING_SHARE)
    loss = NodeLost(f"{peer} has not answered for {silence_s:g} s: it hangs, or its network is gone")
    if channel.get_state() is grpc.ChannelConnectivity.TRANSIENT_FAILURE:
        loss = ConnectionRefused(f"{peer} cannot be connected to any more: its process or its network is gone")
    loss.is_unanswered = True
    return loss


async def _is_connected_within(channel: grpc.aio.Channel, patience_s: float) -> bool:
    with suppress(TimeoutError):
        async with asyncio.timeout(patience_s):
            await channel.channel_ready()
            return True
    return False
