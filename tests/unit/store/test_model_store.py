from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from exo_lite.catalog.table import load_table
from exo_lite.domain.errors import InvalidModel, InvalidRequest, ModelNotFound, UnsupportedModel
from exo_lite.store.model_store import ModelStore


def quiet(num_written: int, num_bytes: int) -> None:
    pass


@pytest.fixture
def filled(store: ModelStore, hf_folder: Path) -> ModelStore:
    store.import_path(hf_folder, "tiny", quiet)
    return store


def test_an_absent_model_is_named_with_the_place_and_the_way_to_get_it(store: ModelStore) -> None:
    with pytest.raises(ModelNotFound, match=r"absent is not in .*models: .*import PATH --as absent"):
        store.get("absent")
    assert store.find("absent") is None
    assert store.list() == []


def test_an_id_never_becomes_another_folder(store: ModelStore) -> None:
    for model_id in ("../models", "a/b", "", ".hidden", "A"):
        with pytest.raises(InvalidRequest):
            store.get(model_id)
        with pytest.raises(InvalidRequest):
            store.remove(model_id)
        assert store.find(model_id) is None


def test_removing_leaves_nothing(filled: ModelStore) -> None:
    filled.remove("tiny")
    assert list(filled.models_dir.iterdir()) == []
    with pytest.raises(ModelNotFound):
        filled.remove("tiny")


@pytest.mark.parametrize("name", ["manifest.json", "config.json", "model.safetensors", "tokenizer.json"])
def test_a_damaged_model_is_not_listed_and_can_be_removed(filled: ModelStore, name: str) -> None:
    (filled.models_dir / "tiny" / name).write_bytes(b"{}")
    assert filled.list() == []
    assert filled.find("tiny") is None
    with pytest.raises(InvalidModel, match="exo-lite rm tiny"):
        filled.get("tiny")
    filled.remove("tiny")
    assert list(filled.models_dir.iterdir()) == []


def test_a_renamed_folder_is_no_model(filled: ModelStore) -> None:
    (filled.models_dir / "tiny").rename(filled.models_dir / "other")
    assert filled.list() == []
    with pytest.raises(InvalidModel, match="is that of tiny"):
        filled.get("other")


def test_other_things_in_the_folder_are_passed_over(filled: ModelStore) -> None:
    (filled.models_dir / "notes").mkdir()
    (filled.models_dir / "README.md").touch()
    (filled.models_dir / "Upper").mkdir()
    assert [model.model_id for model in filled.list()] == ["tiny"]


ROW_NAMES = [(name, row.model_id) for row in load_table().rows for name in row.names]


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(ROW_NAMES), st.sampled_from([str.lower, str.upper, str.title]))
def test_what_is_stored_under_a_name_is_what_a_request_for_it_gets(
    store: ModelStore, hf_folder: Path, name_and_id: tuple[str, str], write: Callable[[str], str]
) -> None:
    name, model_id = name_and_id
    stored = store.import_path(hf_folder, write(name), quiet)
    try:
        assert stored.model_id == model_id == load_table().id_of(name)
        assert [model.model_id for model in store.list()] == [model_id]
        with pytest.raises(InvalidRequest, match=f"{model_id} is in .* already"):
            store.import_path(hf_folder, name, quiet)
    finally:
        assert store.remove(write(name)) == model_id


def test_every_name_of_the_table_leads_to_the_folder_that_requests_use(store: ModelStore, hf_folder: Path) -> None:
    """Nothing is shadowed: with one model stored, each of its names is taken, and every other one is free."""
    store.import_path(hf_folder, "llama3", quiet)
    for name, model_id in ROW_NAMES:
        assert (store.find(load_table().id_of(name)) is not None) == (model_id == "llama-3-8b")


def test_an_alias_and_a_model_that_is_not_the_one_it_names_are_told(store: ModelStore, hf_folder: Path) -> None:
    notes: list[str] = []
    store.import_path(hf_folder, "llama3", quiet, notes.append)
    assert notes[0] == "llama3 is another name of llama-3-8b: kept as llama-3-8b, for requests by either name"
    assert "not the model that llama-3-8b stands for (2 num_hidden_layers, not 32" in notes[1]
    assert "`--as ID`" in notes[1]
    notes.clear()
    store.import_path(hf_folder, "mine", quiet, notes.append)
    assert notes == []


def test_a_folder_that_is_named_like_an_alias_is_damaged_and_can_be_removed(store: ModelStore, hf_folder: Path) -> None:
    """As imports of earlier versions left it: requests for its name go to another model."""
    store.import_path(hf_folder, "mine", quiet)
    manifest = store.models_dir / "mine" / "manifest.json"
    manifest.write_text(manifest.read_text(encoding="utf-8").replace('"mine"', '"vicuna"'), encoding="utf-8")
    (store.models_dir / "mine").rename(store.models_dir / "vicuna")
    damaged = store.survey().damaged
    assert [(one.model_id, one.reason) for one in damaged] == [
        ("vicuna", "its id is another name of vicuna-7b, where requests for it go")
    ]
    assert store.list() == []
    assert store.remove("vicuna") == "vicuna"
    with pytest.raises(ModelNotFound, match="vicuna-7b is not in"):
        store.remove("vicuna")


def test_a_source_that_is_not_there_or_no_model_is_refused(store: ModelStore, tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="no file or folder"):
        store.import_path(tmp_path / "absent", "tiny", quiet)
    (tmp_path / "model.tar").touch()
    with pytest.raises(UnsupportedModel, match=r"neither a Hugging Face model folder, .*, a \.gguf file"):
        store.import_path(tmp_path / "model.tar", "tiny", quiet)
    assert not store.models_dir.exists()
