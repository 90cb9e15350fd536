"""Tokens that only the JSON files beside a vocabulary know: one token in prompts, and in answers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from exo_lite.domain.errors import InvalidModel
from exo_lite.tokenizer.added_tokens import AddedToken, gather_added_tokens
from exo_lite.tokenizer.model_tokenizer import ModelTokenizer
from exo_lite.tokenizer.tokenizer_files import load_tokenizer

NEXT_ID = 256 + 5 + 3
"""Behind the tokens of the byte-level fixture."""


def load(folder: Path, **files: object) -> ModelTokenizer:
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
    return load_tokenizer(folder)


@pytest.mark.parametrize(
    "files",
    [
        {"tokenizer_config": {"added_tokens_decoder": {str(NEXT_ID): {"content": "<tool>", "special": True}}}},
        {"added_tokens": {"<tool>": NEXT_ID}, "special_tokens_map": {"additional_special_tokens": ["<tool>"]}},
        {"special_tokens_map": {"additional_special_tokens": ["<tool>"]}},
        {"tokenizer_config": {"additional_special_tokens": ["<tool>"]}},
        {"tokenizer_config": {"extra_special_tokens": {"image_token": "<tool>"}}},
        {"tokenizer_config": {"pad_token": {"__type": "AddedToken", "content": "<tool>"}}},
        {"tokenizer_config": {"image_token": "<tool>"}},
    ],
)
def test_a_token_beside_the_vocabulary_is_one_token(byte_level_folder: Path, files: dict[str, object]) -> None:
    tokenizer = load(byte_level_folder, **files)
    ids = tokenizer.encode("he<tool>he", add_bos=False)
    assert ids == [256, NEXT_ID, 256]
    assert tokenizer.decode(ids) == "hehe"
    assert tokenizer.decode(ids, skip_special=False) == "he<tool>he"


@pytest.mark.parametrize(
    "files",
    [
        {"tokenizer_config": {"added_tokens_decoder": {str(NEXT_ID): {"content": "<tool>", "special": False}}}},
        {"added_tokens": {"<tool>": NEXT_ID}},
    ],
)
def test_a_token_that_is_not_special_stays_in_answers(byte_level_folder: Path, files: dict[str, object]) -> None:
    tokenizer = load(byte_level_folder, **files)
    assert tokenizer.encode("<tool>", add_bos=False) == [NEXT_ID]
    assert tokenizer.decode([256, NEXT_ID]) == "he<tool>"
    assert tokenizer.token_bytes(NEXT_ID) == b"<tool>"


def test_a_word_in_a_role_becomes_special(byte_level_folder: Path) -> None:
    tokenizer = load(byte_level_folder, tokenizer_config={"pad_token": "hello"})
    assert tokenizer.encode("hehello", add_bos=False) == [256, 259]
    assert tokenizer.decode([256, 259]) == "he"


@pytest.mark.parametrize(
    ("flag", "ids", "text"),
    [
        ("lstrip", [256, NEXT_ID, 260], "he<tool> he"),
        ("rstrip", [256, 220, NEXT_ID, 256], "he <tool>he"),
        ("single_word", [256, 220, NEXT_ID, 260], "he <tool> he"),
    ],
)
def test_a_token_takes_in_the_spaces_that_its_flags_say(
    byte_level_folder: Path, flag: str, ids: list[int], text: str
) -> None:
    entry = {"content": "<tool>", "special": False, "normalized": False, flag: True}
    tokenizer = load(byte_level_folder, tokenizer_config={"added_tokens_decoder": {str(NEXT_ID): entry}})
    assert tokenizer.encode("he <tool> he", add_bos=False) == ids
    assert tokenizer.decode(ids) == text


def test_a_decoder_overrules_the_older_files() -> None:
    entry = {"content": "<a>", "special": False, "normalized": False}
    added = gather_added_tokens(
        {"<a>": 9, "<b>": 5},
        {"pad_token": "<c>"},
        {"added_tokens_decoder": {"7": entry}, "eos_token": "<d>"},
    )
    assert added.by_id == {5: AddedToken("<b>", is_special=False, normalized=True), 7: AddedToken("<a>", False)}
    assert [token.content for token in added.named] == ["<d>"]
    assert added.needed == {"<d>"}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("tokenizer_config", {"added_tokens_decoder": []}),
        ("tokenizer_config", {"added_tokens_decoder": {"x": {"content": "a"}}}),
        ("tokenizer_config", {"added_tokens_decoder": {"300": {}}}),
        ("tokenizer_config", {"additional_special_tokens": 3}),
        ("added_tokens", {"a": "x"}),
    ],
)
def test_unsound_files_are_named(byte_level_folder: Path, name: str, content: object) -> None:
    with pytest.raises(InvalidModel, match=name):
        load(byte_level_folder, **{name: content})
