from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import httpx2
import openai
import pytest

from exo_lite.api.app import create_app
from tests.unit.api.scripted_daemon import ScriptedDaemon

BASE_URL = "http://daemon.test"


@pytest.fixture
def daemon() -> ScriptedDaemon:
    return ScriptedDaemon()


@pytest.fixture
async def client(daemon: ScriptedDaemon) -> AsyncIterator[httpx2.AsyncClient]:
    app = create_app(daemon, api_key=None, allowed_hosts=["daemon.test"])
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url=BASE_URL) as http:
        yield http


@pytest.fixture
async def locked_client(daemon: ScriptedDaemon) -> AsyncIterator[httpx2.AsyncClient]:
    """A client without a key, of an app that wants one: `the-key`."""
    app = create_app(daemon, api_key="the-key", allowed_hosts=["daemon.test"])
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url=BASE_URL) as http:
        yield http


@pytest.fixture
async def sdk(client: httpx2.AsyncClient) -> openai.AsyncOpenAI:
    """OpenAI's own SDK, talking to the app. It repeats failed calls unless told that they are permanent."""
    return openai.AsyncOpenAI(base_url=f"{BASE_URL}/v1", api_key="any", http_client=client, max_retries=2)


@pytest.fixture
def ticking_clock() -> Callable[[], float]:
    """Each look at it takes a second."""
    seconds = iter(range(1_000_000))
    return lambda: float(next(seconds))
