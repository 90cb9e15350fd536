from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from exo_lite.store.model_store import ModelStore
from tests.unit.node.simulation.home import Home
from tests.unit.store.tiny_models import SPEC, random_tensors, write_hf_folder

SIX_LAYERS = replace(SPEC, num_hidden_layers=6)
ROOM_FOR_THREE_LAYERS = 250_000
MODELS = ("tiny", "other")

MakeHome = Callable[..., Home]


@pytest.fixture(scope="session")
def models_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every node has the same models; nobody reads their weights."""
    folder = tmp_path_factory.mktemp("simulation")
    source = write_hf_folder(folder / "source", SIX_LAYERS, random_tensors(SIX_LAYERS))
    for name in MODELS:
        ModelStore(folder / "models").import_path(source, name, lambda done, total: None)
    return folder / "models"


@pytest.fixture
def home_of(tmp_path: Path, models_dir: Path) -> MakeHome:
    """Makes a home of nodes that hold three of a model's six layers each, if not told otherwise."""

    def make(*, seed: int = 0, folder: str = "home", memory_bytes: int = ROOM_FOR_THREE_LAYERS) -> Home:
        (tmp_path / folder).mkdir()
        return Home(tmp_path / folder, models_dir, SIX_LAYERS, memory_bytes=memory_bytes, seed=seed)

    return make
