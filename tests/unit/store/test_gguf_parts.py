"""GGUF models in several files, as llama.cpp's gguf-split writes them, and GGUF files that hold no model."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from safetensors.numpy import load_file

from exo_lite.domain.errors import ExoLiteError, InvalidModel, InvalidRequest, UnsupportedModel
from exo_lite.store.model_store import ModelStore
from tests.unit.store.tiny_models import SPEC, Arrays, GGUFRecipe, random_tensors


def quiet(num_written: int, num_bytes: int) -> None:
    pass


def part_name(number: int, count: int = 3) -> str:
    return f"tiny-{number:05}-of-{count:05}.gguf"


def write_parts(recipe: GGUFRecipe, folder: Path, groups: Iterable[Iterable[str]]) -> None:
    """A file for each group of tensors; only the first has the model's metadata."""
    parts = [list(group) for group in groups]
    for index, names in enumerate(parts):
        split: dict[str, object] = {
            "split.no": index,
            "split.count": len(parts),
            "split.tensors.count": len(recipe.tensors),
        }
        tensors = {name: recipe.tensors[name] for name in names}
        metadata = {**(recipe.metadata if index == 0 else {}), **split}
        replace(recipe, metadata=metadata, tensors=tensors).write(folder / part_name(index + 1, len(parts)))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "tiny-gguf"
    path.mkdir()
    return path


@pytest.fixture
def parts(recipe: GGUFRecipe, folder: Path) -> Path:
    """A folder with a model in three files, the first with metadata alone."""
    names = list(recipe.tensors)
    write_parts(recipe, folder, [[], names[:9], names[9:]])
    return folder


def check_whole(store: ModelStore, source: Path) -> None:
    model = store.import_path(source, "tiny", quiet)
    expected: Arrays = random_tensors(SPEC)
    loaded = load_file(model.path / "model.safetensors")
    assert model.spec == SPEC
    assert loaded.keys() == expected.keys()
    assert all(np.array_equal(loaded[name], expected[name]) for name in expected)


@pytest.mark.parametrize("given", [part_name(1), part_name(2), part_name(3), ""])
def test_a_model_in_parts_is_taken_in_from_any_of_them_or_their_folder(
    store: ModelStore, parts: Path, given: str
) -> None:
    check_whole(store, parts / given)


@pytest.mark.parametrize("small_first_shard", [True, False])
def test_what_the_librarys_own_writer_splits_is_taken_in(
    store: ModelStore, recipe: GGUFRecipe, folder: Path, small_first_shard: bool
) -> None:
    recipe.write(folder / "tiny.gguf", split_max_tensors=7, small_first_shard=small_first_shard)
    names = sorted(path.name for path in folder.iterdir())
    assert names == [part_name(number, len(names)) for number in range(1, len(names) + 1)]
    assert len(names) >= 3
    check_whole(store, folder / names[-1])


def test_the_first_part_may_hold_tensors_too(store: ModelStore, recipe: GGUFRecipe, folder: Path) -> None:
    names = list(recipe.tensors)
    write_parts(recipe, folder, [names[:3], names[3:]])
    check_whole(store, folder)


def test_a_folder_with_one_file_is_that_file(store: ModelStore, recipe: GGUFRecipe, folder: Path) -> None:
    recipe.write(folder / "Tiny.GGUF")
    (folder / "README.md").touch()
    (folder / "config.json").write_text('{"model_type": "llama"}', encoding="utf-8")  # as some repositories have it
    check_whole(store, folder)


def test_a_folder_with_several_models_wants_one_named(store: ModelStore, recipe: GGUFRecipe, parts: Path) -> None:
    recipe.write(parts / "tiny.Q8_0.gguf")
    with pytest.raises(InvalidRequest, match=rf"holds 2 models: give one's file \({part_name(1)}, tiny\.Q8_0\.gguf\)"):
        store.import_path(parts, "tiny", quiet)


@pytest.mark.parametrize("missing", [1, 2, 3])
def test_a_missing_part_is_named(store: ModelStore, parts: Path, missing: int) -> None:
    (parts / part_name(missing)).unlink()
    given = part_name(2 if missing == 1 else 1)
    with pytest.raises(InvalidModel, match=f"{part_name(missing)} is missing beside {given}: fetch all 3 parts"):
        store.import_path(parts / given, "tiny", quiet)


def test_parts_of_other_sets_are_refused(store: ModelStore, recipe: GGUFRecipe, parts: Path) -> None:
    (parts / part_name(3)).replace(parts / part_name(2))
    replace(recipe, metadata={"split.no": 2, "split.count": 4}, tensors={}).write(parts / part_name(3))
    with pytest.raises(InvalidModel, match=f"{part_name(2)} says that it is part 3 of 3"):
        store.import_path(parts, "tiny", quiet)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"output_norm.weight": np.ones(32, np.float32)}, "hold a tensor twice"),
        ({"token_embd.weight": None}, "hold 19 tensors, not 20"),
    ],
)
def test_parts_that_do_not_add_up_are_refused(
    store: ModelStore, recipe: GGUFRecipe, folder: Path, change: dict[str, npt.NDArray[Any] | None], message: str
) -> None:
    names = list(recipe.tensors)
    first, second = names[:8], names[8:]
    write_parts(recipe, folder, [[], first, second])
    changed = {**{name: recipe.tensors[name] for name in first}, **change}
    tensors = {name: values for name, values in changed.items() if values is not None}
    split: dict[str, object] = {"split.no": 1, "split.count": 3, "split.tensors.count": len(names)}
    replace(recipe, metadata=split, tensors=tensors).write(folder / part_name(2))
    with pytest.raises(InvalidModel, match=message):
        store.import_path(folder, "tiny", quiet)


def test_a_part_that_was_renamed_says_what_it_is(store: ModelStore, parts: Path) -> None:
    (parts / part_name(1)).rename(parts / "model.gguf")
    with pytest.raises(InvalidModel, match=r"one of 3 parts, and its name does not say which.*-00001-of-00003\.gguf"):
        store.import_path(parts / "model.gguf", "tiny", quiet)


@pytest.mark.parametrize(
    ("architecture", "metadata", "message"),
    [
        ("llama", {"general.type": "adapter", "adapter.type": "lora"}, r"an adapter \(LoRA\).*merge it into its base"),
        ("llama", {"general.type": "imatrix"}, "an importance matrix.*give the model's own file"),
        ("llama", {"imatrix.datasets": ["a"]}, "an importance matrix"),
        ("clip", {"general.type": "mmproj"}, "the projector of a model that sees images"),
        ("clip", {}, "the projector of a model that sees images"),
        ("controlvector", {}, "a control vector"),
    ],
)
def test_files_that_hold_no_model_say_what_they_hold(
    store: ModelStore, folder: Path, architecture: str, metadata: dict[str, object], message: str
) -> None:
    tensors = {"some.weight": np.ones((4, 4), np.float32)}
    path = GGUFRecipe(architecture, metadata, tensors).write(folder / "other.gguf")
    with pytest.raises(UnsupportedModel, match=rf"other\.gguf holds {message}"):
        store.import_path(path, "tiny", quiet)


def test_a_vocabulary_alone_is_no_model(store: ModelStore, recipe: GGUFRecipe, folder: Path) -> None:
    path = replace(recipe, tensors={}).write(folder / "ggml-vocab-tiny.gguf")
    with pytest.raises(UnsupportedModel, match="holds metadata alone, without a tensor"):
        store.import_path(path, "tiny", quiet)


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        (b"GGUF\x01\x00\x00\x00" + bytes(64), UnsupportedModel, "GGUF version 1, which was in use until autumn 2023"),
        (b"tjgg\x03\x00\x00\x00" + bytes(64), UnsupportedModel, "GGML, the form before GGUF"),
        (b"lmgg" + bytes(64), UnsupportedModel, "GGML, the form before GGUF"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:aa\nsize 4370129024\n",
            InvalidModel,
            "a git-lfs pointer to a file of 4370129024 bytes, not the file: fetch it",
        ),
    ],
)
def test_older_forms_and_pointers_are_told(
    store: ModelStore, folder: Path, content: bytes, error: type[ExoLiteError], message: str
) -> None:
    (folder / "old.gguf").write_bytes(content)
    for source in (folder / "old.gguf", folder):
        with pytest.raises(error, match=rf"old\.gguf is (of )?{message}"):
            store.import_path(source, "tiny", quiet)
