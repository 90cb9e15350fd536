"""A TCP proxy that delivers what it takes some time later, as a slower network would."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class DelayProxy:
    """Forwards to one address; both directions arrive `delay_s` late, and in order."""

    def __init__(self, target: str, delay_s: float) -> None:
        self._host, _, self._port = target.rpartition(":")
        self._delay_s = delay_s

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, to its end."""
        target_reader, target_writer = await asyncio.open_connection(self._host, self._port)
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._copy(reader, target_writer))
                tasks.create_task(self._copy(target_reader, writer))
        except* ConnectionError:
            pass  # either side may just go
        finally:
            for one in (target_writer, writer):
                one.transport.abort()

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Ends the connection when one side ends it."""
        loop = asyncio.get_running_loop()
        while data := await reader.read(1 << 20):
            loop.call_later(self._delay_s, writer.write, data)
        raise ConnectionResetError


@asynccontextmanager
async def delayed(target: str, delay_s: float) -> AsyncIterator[str]:
    """The address of a proxy for `target`, HOST:PORT."""
    proxy = DelayProxy(target, delay_s)
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    try:
        yield "{}:{}".format(*server.sockets[0].getsockname())
    finally:
        server.close()
