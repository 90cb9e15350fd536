from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tokenizers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file
from tokenizers import models

from exo_lite.domain.errors import ExoLiteError, InvalidModel, InvalidRequest, StorageError, UnsupportedModel
from exo_lite.store.model_store import ModelStore
from tests.unit.store.tiny_models import SPEC, random_tensors, split_in_two

WEIGHTS = "model.safetensors"


def quiet(num_written: int, num_bytes: int) -> None:
    pass


def test_a_folder_is_taken_in_and_found(store: ModelStore, hf_folder: Path) -> None:
    calls: list[tuple[int, int]] = []
    model = store.import_path(hf_folder, "tiny", lambda *numbers: calls.append(numbers))
    assert (model.model_id, model.spec, model.path) == ("tiny", SPEC, store.models_dir / "tiny")
    assert model.weight_bytes == 4 * SPEC.num_parameters
    assert store.list() == [model] == [store.find("tiny")]
    assert [path.name for path in store.models_dir.iterdir()] == ["tiny"]
    assert calls[-1][0] == calls[-1][1] == sum(path.stat().st_size for path in hf_folder.iterdir())
    assert (model.path / WEIGHTS).read_bytes() == (hf_folder / WEIGHTS).read_bytes()


def test_the_manifest_lists_files_and_names_no_folder(store: ModelStore, hf_folder: Path) -> None:
    model = store.import_path(hf_folder, "tiny", quiet)
    text = (model.path / "manifest.json").read_text(encoding="utf-8")
    manifest = json.loads(text)
    assert {entry["name"] for entry in manifest["files"]} == {"config.json", "tokenizer.json", WEIGHTS}
    assert (manifest["format"], manifest["id"], manifest["source"]) == (1, "tiny", "tiny-llama")
    assert manifest["fingerprint"] == model.fingerprint
    assert str(hf_folder.parent) not in text


def test_the_same_files_have_the_same_fingerprint_under_any_id(store: ModelStore, hf_folder: Path) -> None:
    first = store.import_path(hf_folder, "first", quiet)
    assert store.import_path(hf_folder, "second", quiet).fingerprint == first.fingerprint
    (hf_folder / "generation_config.json").write_text("{}", encoding="utf-8")
    assert store.import_path(hf_folder, "third", quiet).fingerprint != first.fingerprint


def test_only_files_of_the_model_are_copied(store: ModelStore, hf_folder: Path) -> None:
    for name in ("README.md", "pytorch_model.bin", "consolidated.safetensors", "model.py"):
        (hf_folder / name).write_text("x", encoding="utf-8")
    (hf_folder / "tokenizer.model").write_bytes(b"spm")
    (hf_folder / "special_tokens_map.json").write_text("{}", encoding="utf-8")
    (hf_folder / "added_tokens.json").write_text("{}", encoding="utf-8")
    (hf_folder / "chat_template.jinja").write_text("hi", encoding="utf-8")
    model = store.import_path(hf_folder, "tiny", quiet)
    assert {path.name for path in model.path.iterdir()} == {
        "config.json", "tokenizer.json", "tokenizer.model", "special_tokens_map.json", "added_tokens.json",
        "chat_template.jinja", WEIGHTS, "manifest.json"
    }  # fmt: skip


def test_several_weight_files_come_with_their_index(store: ModelStore, hf_folder: Path) -> None:
    split_in_two(hf_folder)
    model = store.import_path(hf_folder, "tiny", quiet)
    assert model.weight_bytes == 4 * SPEC.num_parameters
    assert len(list(model.path.glob("*.safetensors"))) == 2
    assert (model.path / "model.safetensors.index.json").is_file()


def test_one_weight_file_may_have_any_name(store: ModelStore, hf_folder: Path) -> None:
    (hf_folder / WEIGHTS).rename(hf_folder / "weights.safetensors")
    assert (store.import_path(hf_folder, "tiny", quiet).path / WEIGHTS).is_file()


def test_links_within_the_folder_are_followed(store: ModelStore, hf_folder: Path) -> None:
    (hf_folder / "files").mkdir()
    for path in [path for path in hf_folder.iterdir() if path.is_file()]:
        path.rename(hf_folder / "files" / path.name)
        path.symlink_to(Path("files") / path.name)
    model = store.import_path(hf_folder, "tiny", quiet)
    assert not any(path.is_symlink() for path in model.path.iterdir())


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", WEIGHTS])
def test_links_that_leave_the_folder_are_refused(
    store: ModelStore, hf_folder: Path, tmp_path: Path, name: str, nothing_left: Callable[[], bool]
) -> None:
    (hf_folder / name).rename(tmp_path / name)
    (hf_folder / name).symlink_to(tmp_path / name)
    with pytest.raises(InvalidModel, match=rf"{re.escape(name)} is a link that leaves tiny-llama: put the file itself"):
        store.import_path(hf_folder, "tiny", quiet)
    assert nothing_left()


def test_tensors_that_follow_from_others_are_let_pass(store: ModelStore, hf_folder: Path) -> None:
    tensors = random_tensors(SPEC)
    extra = {
        "lm_head.weight": tensors["model.embed_tokens.weight"].copy(),
        "model.layers.0.self_attn.rotary_emb.inv_freq": np.ones(4, np.float32),
    }
    save_file(tensors | extra, hf_folder / WEIGHTS)
    assert store.import_path(hf_folder, "tiny", quiet).spec == SPEC


Change = Callable[[Path], None]


def with_tensors(change: Callable[[dict[str, npt.NDArray[Any]]], object]) -> Change:
    def apply(folder: Path) -> None:
        tensors = random_tensors(SPEC)
        change(tensors)
        save_file(tensors, folder / WEIGHTS)

    return apply


def with_config(**values: object) -> Change:
    def apply(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | values), encoding="utf-8")

    return apply


def with_index(**weight_map: object) -> Change:
    def apply(folder: Path) -> None:
        split_in_two(folder)
        path = folder / "model.safetensors.index.json"
        index = json.loads(path.read_text(encoding="utf-8"))
        index["weight_map"] |= weight_map
        path.write_text(json.dumps(index), encoding="utf-8")

    return apply


def without(name: str) -> Change:
    return lambda folder: (folder / name).unlink()


def as_pickle(folder: Path) -> None:
    (folder / WEIGHTS).rename(folder / "pytorch_model.bin")


def without_index(folder: Path) -> None:
    split_in_two(folder)
    (folder / "model.safetensors.index.json").unlink()


def without_second_file(folder: Path) -> None:
    split_in_two(folder)
    (folder / "model-00002-of-00002.safetensors").unlink()


def with_bad_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("{}", encoding="utf-8")


def with_bad_tokenizer_model(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer.model").write_bytes(b"spm")


def with_tokenizer_of_a_greater_model(folder: Path) -> None:
    tokenizers.Tokenizer(models.BPE(vocab={"a": 0, "<s>": SPEC.vocab_size}, merges=[])).save(
        str(folder / "tokenizer.json")
    )
    (folder / "tokenizer_config.json").write_text('{"bos_token": "<s>"}', encoding="utf-8")


def with_template(source: str) -> Change:
    def apply(folder: Path) -> None:
        (folder / "chat_template.jinja").write_text(source, encoding="utf-8")

    return apply


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (without("config.json"), InvalidModel, r"no config\.json"),
        (without("tokenizer.json"), InvalidModel, r"neither tokenizer\.json nor tokenizer\.model"),
        (without(WEIGHTS), InvalidModel, r"no \*\.safetensors"),
        (without_index, InvalidModel, r"no model\.safetensors\.index\.json"),
        (without_second_file, InvalidModel, r"model-00002-of-00002\.safetensors is missing"),
        (as_pickle, UnsupportedModel, r"pytorch_model\.bin.*pickle.*safetensors"),
        (with_bad_tokenizer, InvalidModel, r"tokenizer\.json cannot be used"),
        (with_bad_tokenizer_model, InvalidModel, r"tokenizer\.model is neither"),
        (with_tokenizer_of_a_greater_model, InvalidModel, "has id 12, beyond the model's 12 tokens"),
        (with_template("{% if %}"), InvalidModel, r"not valid.*remove chat_template\.jinja"),
        (with_template("{{ 'a' * 10**10 }}"), InvalidModel, r"takes more memory.*remove chat_template\.jinja"),
        (with_config(hidden_size=64, head_dim=16), InvalidModel, "has the shape"),
        (with_config(num_hidden_layers=3), InvalidModel, r"model\.layers\.2.*missing"),
        (with_config(num_hidden_layers=10**9), InvalidModel, "layers that the config names"),
        (with_config(num_hidden_layers=1), UnsupportedModel, r"first is model\.layers\.1"),
        (with_config(tie_word_embeddings=False), InvalidModel, r"lm_head\.weight is missing"),
        (with_config(model_type="gpt2", architectures=["GPT2LMHeadModel"]), UnsupportedModel, "GPT2LMHeadModel"),
        (with_tensors(lambda t: t.pop("model.norm.weight")), InvalidModel, r"model\.norm\.weight is missing"),
        (
            with_tensors(lambda t: t.update({"model.layers.0.mlp.gate_proj.bias": np.ones(64, np.float32)})),
            UnsupportedModel,
            r"gate_proj\.bias",
        ),
        (
            with_tensors(lambda t: t.update({"model.norm.weight": np.ones(32, np.int8)})),
            UnsupportedModel,
            "type I8.*unquantized",
        ),
        (with_index(**{"model.norm.weight": "../x.safetensors"}), InvalidModel, "not the name of a safetensors file"),
        (with_index(**{"model.norm.weight": 3}), InvalidModel, "not the name of a safetensors file"),
    ],
)
def test_an_unsound_folder_is_refused_and_nothing_stays(
    store: ModelStore,
    hf_folder: Path,
    nothing_left: Callable[[], bool],
    change: Change,
    error: type[ExoLiteError],
    message: str,
) -> None:
    change(hf_folder)
    with pytest.raises(error, match=message) as raised:
        store.import_path(hf_folder, "tiny", quiet)
    assert type(raised.value) is error
    assert nothing_left()


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_truncated_weights_are_refused(store: ModelStore, hf_folder: Path, data: st.DataObject) -> None:
    content = (hf_folder / WEIGHTS).read_bytes()
    length = data.draw(st.integers(0, len(content) - 1))
    (hf_folder / WEIGHTS).write_bytes(content[:length])
    try:
        with pytest.raises(InvalidModel, match=r"model\.safetensors is truncated or damaged"):
            store.import_path(hf_folder, "tiny", quiet)
    finally:
        (hf_folder / WEIGHTS).write_bytes(content)
    assert not store.models_dir.exists()


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_damaged_header_never_does_more_than_refuse(store: ModelStore, hf_folder: Path, data: st.DataObject) -> None:
    content = (hf_folder / WEIGHTS).read_bytes()
    damaged = bytearray(content)
    for position in data.draw(st.lists(st.integers(0, 400), min_size=1, max_size=4)):
        damaged[position] = data.draw(st.integers(0, 255))
    (hf_folder / WEIGHTS).write_bytes(damaged)
    try:
        assert store.import_path(hf_folder, "tiny", quiet).spec == SPEC
        store.remove("tiny")
    except InvalidModel:
        pass
    finally:
        (hf_folder / WEIGHTS).write_bytes(content)
    assert not store.models_dir.exists() or list(store.models_dir.iterdir()) == []


def test_too_little_disk_space_is_refused_with_the_numbers(hf_folder: Path, tmp_path: Path) -> None:
    store = ModelStore(tmp_path / "models", free_bytes=lambda folder: 1000)
    needed = sum(path.stat().st_size for path in hf_folder.iterdir())
    with pytest.raises(StorageError, match=f"needs {needed} bytes.*1000 are free.*free {needed - 1000} more"):
        store.import_path(hf_folder, "tiny", quiet)
    assert list(store.models_dir.iterdir()) == []


def test_an_id_in_use_is_refused_with_the_way_out(store: ModelStore, hf_folder: Path) -> None:
    model = store.import_path(hf_folder, "tiny", quiet)
    with pytest.raises(InvalidRequest, match="exo-lite rm tiny"):
        store.import_path(hf_folder, "tiny", quiet)
    assert store.list() == [model]


def test_of_two_imports_at_once_the_second_is_refused(store: ModelStore, hf_folder: Path) -> None:
    has_begun = False

    def import_again(num_written: int, num_bytes: int) -> None:
        nonlocal has_begun
        if not has_begun:
            has_begun = True
            store.import_path(hf_folder, "tiny", quiet)

    with pytest.raises(InvalidRequest, match="exo-lite rm tiny"):
        store.import_path(hf_folder, "tiny", import_again)
    assert [path.name for path in store.models_dir.iterdir()] == ["tiny"]
    assert store.get("tiny").spec == SPEC


def test_an_interrupted_import_leaves_nothing(
    store: ModelStore, hf_folder: Path, nothing_left: Callable[[], bool]
) -> None:
    def interrupt(num_written: int, num_bytes: int) -> None:
        if num_written == num_bytes:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.import_path(hf_folder, "tiny", interrupt)
    assert nothing_left()


def test_a_source_that_changes_meanwhile_is_refused(
    store: ModelStore, hf_folder: Path, nothing_left: Callable[[], bool]
) -> None:
    def shorten(num_written: int, num_bytes: int) -> None:
        (hf_folder / WEIGHTS).write_bytes(b"short")

    with pytest.raises(InvalidModel, match="changed while it was read"):
        store.import_path(hf_folder, "tiny", shorten)
    assert nothing_left()


def test_what_a_killed_import_left_is_swept(store: ModelStore, hf_folder: Path) -> None:
    leftover = store.models_dir / ".other.partial-0123"
    leftover.mkdir(parents=True)
    store.import_path(hf_folder, "tiny", quiet)
    assert [path.name for path in store.models_dir.iterdir()] == ["tiny"]


def test_weights_arrive_unchanged(store: ModelStore, hf_folder: Path) -> None:
    model = store.import_path(hf_folder, "tiny", quiet)
    expected = random_tensors(SPEC)
    loaded = load_file(model.path / WEIGHTS)
    assert loaded.keys() == expected.keys()
    assert all(np.array_equal(loaded[name], expected[name]) for name in expected)
