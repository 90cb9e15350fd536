"""What tests of several folders share: the demo model, and which tests run when."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from exo_lite.domain.errors import InvalidRequest
from exo_lite.store.model_store import ModelStore
from tests.wheel_files import DOWNLOAD_TIMEOUT_S, LLAMA3_TOKENIZER, SENTENCEPIECE_TOKENIZER, TEKKEN_TOKENIZER, fetch

ROOT = Path(__file__).parents[1]
DEMO_MODEL = "smollm2-135m"
DOWNLOADS = {"demo_gguf", "llama3_tokenizer_model", "sentencepiece_tokenizer_model", "tekken_json"}
"""Fixtures that may have to download."""
FOLDERS = ("e2e", "integration", "unit", "bench")
"""The order where processes share the tests: the short ones last, so that all end at about the same time."""

# whatever a busy machine makes slow is no failure
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")


def pytest_configure() -> None:
    """Let Ctrl-C reach the programs under test, although shells start jobs in the background without it."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="also run the tests that take minutes")
    parser.addoption("--part", choices=("together", "alone"), help="only tests without, or with, the mark `alone`")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave files unread that have nothing to run alone: to import them all takes long."""
    has_none = collection_path.suffix == ".py" and "mark.alone" not in collection_path.read_text(encoding="utf-8")
    return True if config.getoption("--part") == "alone" and has_none else None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what was not asked for, and give tests that may have to download the time for it."""
    left_out = {item for item in items if not is_wanted(item, config.getoption("--part"), config.getoption("--long"))}
    config.hook.pytest_deselected(items=[*left_out])
    items[:] = [item for item in items if item not in left_out]
    if config.getoption("--part") == "together":
        items.sort(key=lambda item: FOLDERS.index(item.path.relative_to(ROOT / "tests").parts[0]))
    for item in items:
        if DOWNLOADS & set(getattr(item, "fixturenames", ())) and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(DOWNLOAD_TIMEOUT_S))


def is_wanted(item: pytest.Item, part: str | None, is_long: bool) -> bool:
    has_part = part is None or (part == "alone") == (item.get_closest_marker("alone") is not None)
    return has_part and (is_long or item.get_closest_marker("long") is None)


@pytest.fixture(scope="session")
def demo_gguf() -> Path:
    """SmolLM2-135M-Instruct in Q4_1, downloaded once and kept in .cache/demo-model."""
    command = ["bash", str(ROOT / "deploy/fetch_demo_model.sh"), sys.executable]
    fetched = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, timeout=DOWNLOAD_TIMEOUT_S)
    return Path(fetched.stdout.strip())


@pytest.fixture(scope="session")
def llama3_tokenizer_model() -> Path:
    """Meta's tokenizer.model of Llama 3, in tiktoken's format."""
    return fetch(LLAMA3_TOKENIZER, ROOT / ".cache/tokenizers")


@pytest.fixture(scope="session")
def sentencepiece_tokenizer_model() -> Path:
    """A SentencePiece file of 32,000 pieces, of the kind of Llama 1 and 2."""
    return fetch(SENTENCEPIECE_TOKENIZER, ROOT / ".cache/tokenizers")


@pytest.fixture(scope="session")
def tekken_json() -> Path:
    """Mistral's byte-level vocabulary: ranks as in tiktoken, and the expression that cuts its text."""
    return fetch(TEKKEN_TOKENIZER, ROOT / ".cache/tokenizers")


@pytest.fixture(scope="session")
def smollm2_store(demo_gguf: Path) -> ModelStore:
    """A store with smollm2-135m in it, imported once and kept in .cache/test-models."""
    store = ModelStore(ROOT / ".cache/test-models")
    if store.find(DEMO_MODEL) is None:
        try:
            store.import_path(demo_gguf, DEMO_MODEL, lambda num_written, num_bytes: None)
        except InvalidRequest:  # another run was faster; if what it left is damaged, this says so
            store.get(DEMO_MODEL)
    return store
