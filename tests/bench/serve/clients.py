"""Clients of an OpenAI-like server: as many as ask one after the other, or as many as arrive."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterable, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import httpx2

from tests.bench.serve.answers import Answer
from tests.bench.serve.workload import Ask, shares

SILENCE_TIMEOUT_S = 300.0


@dataclass(slots=True)
class Progress:
    """Of a request under way."""

    times_s: list[float] = field(default_factory=list)
    num_tokens: int = 0
    token_ids: list[int] = field(default_factory=list)
    error: str | None = None


class Clients:
    """All on one event loop; `url` is the server's, without a path."""

    def __init__(self, http: httpx2.AsyncClient, url: str, model: str) -> None:
        self._http = http
        self._url = url
        self._model = model

    async def closed_loop(
        self, asks: Sequence[Ask], num_clients: int, *, until_s: float = float("inf")
    ) -> list[Answer]:
        """Each client asks its share, one after the other, and no more after `until_s` of time.monotonic."""

        async def one(client: int, own: Sequence[Ask]) -> list[Answer]:
            answers = []
            for ask in own:
                if time.monotonic() >= until_s:
                    break
                answers.append(await self.ask(ask, client=client))
            return answers

        lists = await asyncio.gather(*(one(client, own) for client, own in enumerate(shares(asks, num_clients))))
        return [answer for answers in lists for answer in answers]

    async def open_loop(self, asks: Sequence[Ask], arrivals_s: Sequence[float]) -> list[Answer]:
        """Each ask at its time, whatever became of those before it. Waits for all to end."""
        start_s = time.monotonic()

        async def one(client: int, ask: Ask, at_s: float) -> Answer:
            await asyncio.sleep(start_s + at_s - time.monotonic())
            return await self.ask(ask, client=client)

        pairs = enumerate(zip(asks, arrivals_s, strict=True))
        return await asyncio.gather(*(one(client, ask, at_s) for client, (ask, at_s) in pairs))

    async def ask(self, ask: Ask, *, client: int = 0, progress: Progress | None = None) -> Answer:
        """One request to its end, whatever that is. `progress` tells of it meanwhile."""
        seen = progress or Progress()
        begun = Answer(client, time.monotonic(), 0.0)
        try:
            async with self._http.sse(f"{self._url}/v1/completions", method="POST", json=self._body(ask)) as source:
                status = source.response.status_code
                if status != 200:
                    text = (await source.response.aread()).decode(errors="replace")
                    return replace(begun, ended_at_s=time.monotonic(), status=status, error=text[:300])
                is_done = await self._read(source, ask, seen)
        except httpx2.HTTPError as error:
            seen.error, is_done = f"{type(error).__name__}: {error}", False
        has_left = not is_done and seen.error is None and ask.leaves_after is not None
        if not is_done and not has_left and seen.error is None:
            seen.error = "the stream broke off"
        return replace(
            begun,
            ended_at_s=time.monotonic(),
            times_s=tuple(seen.times_s),
            num_tokens=seen.num_tokens or len(seen.times_s),
            error=seen.error,
            has_left=has_left,
        )

    async def _read(self, events: AsyncIterable[httpx2.ServerSentEvent], ask: Ask, seen: Progress) -> bool:
        """Whether the answer came to its end."""
        if ask.leaves_after == 0:
            return False
        async for event in events:
            if event.data == "[DONE]":
                return True
            _take(json.loads(event.data), seen)
            if ask.leaves_after is not None and len(seen.times_s) >= ask.leaves_after:
                return False
        return False

    def _body(self, ask: Ask) -> dict[str, Any]:
        return {
            "model": self._model,
            "prompt": list(ask.prompt),
            "max_tokens": ask.num_tokens,
            "temperature": 0,
            "ignore_eos": True,
            "stream": True,
            "stream_options": {"include_usage": True},
            "return_token_ids": True,
        }


def _take(chunk: dict[str, Any], seen: Progress) -> None:
    if "error" in chunk:
        seen.error = str(chunk["error"].get("message"))
    if usage := chunk.get("usage"):
        seen.num_tokens = usage["completion_tokens"]
    for choice in chunk.get("choices", ()):
        if choice.get("text") or choice.get("token_ids"):
            seen.times_s.append(time.monotonic())
        seen.token_ids.extend(choice.get("token_ids") or ())


@asynccontextmanager
async def clients_of(url: str, model: str) -> AsyncIterator[Clients]:
    limits = httpx2.Limits(max_connections=None, max_keepalive_connections=None)
    timeout = httpx2.Timeout(SILENCE_TIMEOUT_S)
    async with httpx2.AsyncClient(limits=limits, timeout=timeout, trust_env=False) as http:
        yield Clients(http, url, model)
