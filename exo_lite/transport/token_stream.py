"""The tokens of an answer between processes: the stream of a Generate call, at either end."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any

import grpc

from exo_lite.domain.request import Token
from exo_lite.transport.errors import errors_from_status
from exo_lite.transport.step_codec import token_from_proto, token_to_proto
from exo_lite.transport.v1 import worker_pb2


async def send_tokens(tokens: AsyncGenerator[Token, None], context: grpc.aio.ServicerContext[Any, Any]) -> None:
    """Write tokens as the other side takes them. Raises what `tokens` raises, and closes it."""
    async with aclosing(tokens):
        async for token in tokens:
            await context.write(token_to_proto(token))


async def received_tokens(
    start: Callable[[], grpc.aio.UnaryStreamCall[Any, worker_pb2.Token]], *, peer: str
) -> AsyncGenerator[Token, None]:
    """The tokens of a call, which starts when the first is asked for. Closing cancels it.

    Raises what the other side raised, or NodeLost naming `peer`.
    """
    call = start()
    try:
        with errors_from_status(peer):
            async for message in call:
                yield token_from_proto(message)
    finally:
        call.cancel()
