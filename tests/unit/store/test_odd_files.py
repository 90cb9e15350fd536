"""Files that nobody writes by accident: each is refused in words, quickly."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from exo_lite.domain.errors import InvalidModel
from exo_lite.store.gguf.file import GGUFFile
from exo_lite.store.gguf.vocabulary import tokenizer_files
from exo_lite.store.model_store import ModelStore
from tests.unit.store.tiny_models import TOKENS, GGUFRecipe, byte_level_metadata

ARRAY = 9
"""GGUF's number for the kind."""


def quiet(num_written: int, num_bytes: int) -> None:
    pass


def test_metadata_that_is_nested_without_end(store: ModelStore, recipe: GGUFRecipe, tmp_path: Path) -> None:
    recipe.metadata = {"nested": [1], **recipe.metadata}
    content = recipe.write(tmp_path / "x.gguf").read_bytes()
    start = content.index(b"nested") + len(b"nested") + 4  # behind the name and the kind
    nesting = struct.pack("<IQ", ARRAY, 1) * 3000
    (tmp_path / "x.gguf").write_bytes(content[:start] + nesting + content[start:])
    with pytest.raises(InvalidModel, match=r"x\.gguf is truncated, damaged or no GGUF file"):
        store.import_path(tmp_path / "x.gguf", "tiny", quiet)


@pytest.mark.parametrize("layer", ["9" * 5000, "01", "00", "٣", "-1", "1_0", "9999999"])
def test_layers_that_are_no_plain_number(store: ModelStore, recipe: GGUFRecipe, tmp_path: Path, layer: str) -> None:
    """Nor a second spelling of one, of which one tensor would vanish."""
    recipe.tensors[f"blk.{layer}.ffn_up.weight"] = np.ones((64, 32), np.float32)
    with pytest.raises(InvalidModel, match=rf"tensor blk\.{layer[:20]}.* has no part in the models") as raised:
        store.import_path(recipe.write(tmp_path / "x.gguf"), "tiny", quiet)
    assert len(str(raised.value)) < 400


def test_a_vocabulary_with_a_token_twice_is_refused_at_once() -> None:
    """In time that does not grow with its square: 128,000 tokens took three minutes."""
    tokens = [f"t{number}" for number in range(400_000)]
    metadata = byte_level_metadata() | {"tokenizer.ggml.tokens": [*tokens, tokens[-1]]}
    with pytest.raises(InvalidModel, match="'t399999' stands twice in the vocabulary"):
        tokenizer_files(GGUFFile("x.gguf", metadata, {}), 64)


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"tokenizer.ggml.token_type": [float("inf")] * 12}, "must be whole numbers, not 'inf'"),
        ({"tokenizer.ggml.eos_token_id": 2**64}, "is 18446744073709551616, and the vocabulary ends at 11"),
        ({"tokenizer.ggml.tokens": ["a" * 2000, *TOKENS[1:]]}, "a token has 2000 characters"),
        ({"tokenizer.ggml.tokens": []}, "has 0 tokens, but types for 12"),
    ],
)
def test_odd_vocabularies(metadata: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidModel, match=message):
        tokenizer_files(GGUFFile("x.gguf", byte_level_metadata() | metadata, {}), 64)


def with_json(name: str, text: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_text(text, encoding="utf-8")


def with_model(**values: object) -> Callable[[Path], object]:
    """Changes to the model part of tokenizer.json."""

    def apply(folder: Path) -> None:
        path = folder / "tokenizer.json"
        document = json.loads(path.read_text(encoding="utf-8"))
        document["model"] |= values
        path.write_text(json.dumps(document), encoding="utf-8")

    return apply


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            with_json("generation_config.json", '{"eos_token_id": 18446744073709551616}'),
            r"eos_token_id must be a token id",
        ),
        (with_json("tokenizer_config.json", '{"bos_token": "\\ud800"}'), r"tokenizer_config\.json is not valid JSON"),
        (
            with_json("tokenizer_config.json", '{"chat_template": "\\uDFFF"}'),
            r"tokenizer_config\.json is not valid JSON",
        ),
        (with_json("tokenizer_config.json", '{"chat_template": 3}'), r"chat_template must be text, not int"),
        (
            with_json("tokenizer_config.json", '{"chat_template": [{"name": "default", "template": 3}]}'),
            r"chat_template has .*, not a named template",
        ),
        (with_json("tokenizer_config.json", '{"chat_template": [{"name": []}]}'), r"chat_template has .*, not a named"),
        (with_json("tokenizer_config.json", "[" * 100_000), r"tokenizer_config\.json is not valid JSON"),
        (with_json("config.json", '{"a": ' * 100_000), r"config\.json is not valid JSON"),
        (with_json("config.json", "1" * 5000), r"config\.json is not valid JSON"),
        (
            with_model(vocab={"a": 0, "b": 1, "ab": 2}, merges=["a b"], continuing_subword_prefix="x" * 300),
            r"tokenizer\.json cannot be used",
        ),
    ],
)
def test_odd_json(store: ModelStore, hf_folder: Path, change: Callable[[Path], object], message: str) -> None:
    change(hf_folder)
    with pytest.raises(InvalidModel, match=message) as raised:
        store.import_path(hf_folder, "tiny", quiet)
    assert len(str(raised.value).encode()) < 1000
