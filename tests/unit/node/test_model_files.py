from __future__ import annotations

import json
from pathlib import Path

import pytest

from exo_lite.node.event_log import EventLog
from exo_lite.node.model_files import MAX_TOLD, ModelFiles
from exo_lite.store.model_store import ModelStore
from tests.loopback import CLOCK
from tests.unit.store.tiny_models import SPEC, random_tensors, write_hf_folder


def quiet(num_written: int, num_bytes: int) -> None:
    pass


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    folder = write_hf_folder(tmp_path / "tiny-llama", SPEC, random_tensors(SPEC))
    store = ModelStore(tmp_path / "models")
    store.import_path(folder, "tiny", quiet)
    return store


def damage(store: ModelStore, model_id: str, **changes: object) -> None:
    """A copy of the sound model's manifest with some values changed, and none of its files."""
    document = json.loads((store.models_dir / "tiny" / "manifest.json").read_text(encoding="utf-8"))
    (store.models_dir / model_id).mkdir(exist_ok=True)
    changed = json.dumps(document | {"id": model_id} | changes)
    (store.models_dir / model_id / "manifest.json").write_text(changed, encoding="utf-8")


async def test_a_manifest_that_names_a_file_of_300_letters_is_damaged_and_the_rest_lives(store: ModelStore) -> None:
    damage(store, "long", files=[{"name": "x" * 300, "size_bytes": 1, "sha256": "00"}])
    events = EventLog(CLOCK)
    assert [*await ModelFiles(store, events).look()] == ["tiny"]
    (event,) = events
    assert event.kind == "model_damaged"
    assert "long cannot be used here: manifest.json: 'xxxxxxxxxxxx" in event.text
    assert event.fix == "`exo-lite rm long`, then import it again"


async def test_damage_is_told_once_and_again_when_it_is_another(store: ModelStore) -> None:
    events = EventLog(CLOCK)
    files = ModelFiles(store, events)
    damage(store, "bad", weight_bytes=-1)
    await files.look()
    await files.look()
    assert len([*events]) == 1
    damage(store, "bad", weight_bytes="many, this time")
    await files.look()
    assert ["must be a count, not" in event.text for event in events] == [True, True]
    store.remove("bad")
    await files.look()
    damage(store, "bad", weight_bytes=-1)
    await files.look()
    assert len([*events]) == 3


async def test_a_thousand_damaged_models_do_not_drown_what_else_happened(store: ModelStore) -> None:
    for number in range(1000):
        damage(store, f"bad-{number}", files=number)
    events = EventLog(CLOCK)
    assert [*await ModelFiles(store, events).look()] == ["tiny"]
    assert len([*events]) == MAX_TOLD + 1
    assert [*events][-1].text == f"{1000 - MAX_TOLD} more models cannot be used here"
