"""A pipe to a worker, as the stage before it has one, whose end can be awaited."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from exo_lite.domain.errors import ExoLiteError
from exo_lite.domain.pipeline import Hop
from exo_lite.domain.step import StepMessage
from exo_lite.transport.out_stream import OutStream, open_pipe


@dataclass(frozen=True)
class Pipe:
    stream: OutStream[StepMessage]
    ended: asyncio.Future[ExoLiteError]

    def send(self, message: StepMessage) -> None:
        self.stream.send(message)

    async def wait_ended(self) -> None:
        """Raises what ended it, as often as it is asked."""
        raise await asyncio.shield(self.ended)


@contextmanager
def pipe_to(hop: Hop, *, max_message_bytes: int = 2**22) -> Iterator[Pipe]:
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[ExoLiteError] = loop.create_future()

    def on_end(error: ExoLiteError) -> None:
        loop.call_soon_threadsafe(ended.set_result, error)

    stream = open_pipe(hop, on_end, max_message_bytes=max_message_bytes)
    try:
        yield Pipe(stream, ended)
    finally:
        stream.close()
