from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from exo_lite.store.model_store import ModelStore
from tests.daemons import Daemons


@pytest.fixture(scope="module")
def daemons(tmp_path_factory: pytest.TempPathFactory, smollm2_store: ModelStore) -> Iterator[Daemons]:
    """A cluster that the tests of a module share, at first without a node."""
    with Daemons(tmp_path_factory.mktemp("cluster"), smollm2_store.models_dir) as cluster:
        yield cluster


@pytest.fixture(autouse=True)
def nobody_is_left_stopped(request: pytest.FixtureRequest) -> Iterator[None]:
    """What a test stops in a cluster that others share goes on after it, also where the test failed."""
    shared: Daemons | None = request.getfixturevalue("daemons") if "daemons" in request.fixturenames else None
    yield
    if shared is not None:
        shared.wake()


@pytest.fixture
def own_daemons(tmp_path: Path, smollm2_store: ModelStore) -> Iterator[Daemons]:
    """A cluster for one test."""
    with Daemons(tmp_path, smollm2_store.models_dir) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def browser_type_launch_args() -> dict[str, object]:
    """The system's own Chromium, silent towards the network."""
    arguments = (
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--no-first-run",
    )
    return {"executable_path": "/usr/bin/chromium", "args": list(arguments)}


@pytest.fixture(scope="module")
def browser(browser_type_launch_args: dict[str, object]) -> Iterator[Browser]:
    """Per module, not per session: while Playwright runs, its loop keeps pytest-asyncio from starting one."""
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(**browser_type_launch_args)  # type: ignore[arg-type]  # as the plugin has it
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A tab of its own, at a desktop's size."""
    context = browser.new_context(viewport={"width": 1440, "height": 900}, reduced_motion="reduce")
    yield context.new_page()
    context.close()
