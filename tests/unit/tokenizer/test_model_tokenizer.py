from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exo_lite.domain.errors import InvalidModel
from exo_lite.tokenizer.model_tokenizer import ModelTokenizer
from exo_lite.tokenizer.tokenizer_files import load_tokenizer


def write(folder: Path, name: str, **content: object) -> None:
    (folder / name).write_text(json.dumps(content), encoding="utf-8")


@pytest.mark.parametrize("kind", ["byte_level", "sentencepiece"])
def test_bos_leads_exactly_once(kind: str, request: pytest.FixtureRequest) -> None:
    tokenizer: ModelTokenizer = request.getfixturevalue(kind)
    bos = tokenizer.special.bos_token_id
    plain = tokenizer.encode("hi", add_bos=False)
    assert bos not in plain
    assert tokenizer.encode("hi") == [bos, *plain]
    assert tokenizer.encode(f"{tokenizer.bos_token}hi") == [bos, *plain]
    assert tokenizer.encode("") == [bos]


def test_the_config_overrules_the_post_processor(byte_level_folder: Path) -> None:
    write(byte_level_folder, "tokenizer_config.json", bos_token="<bos>", add_bos_token=False)
    tokenizer = load_tokenizer(byte_level_folder)
    assert tokenizer.encode("hello") == tokenizer.encode("hello", add_bos=False)


def test_ids_in_config_json_stand_in_for_unnamed_tokens(byte_level_folder: Path) -> None:
    backend = load_tokenizer(byte_level_folder)
    bos, eos = backend.encode("<bos><eos>", add_bos=False)
    write(byte_level_folder, "config.json", bos_token_id=bos, eos_token_id=eos)
    tokenizer = load_tokenizer(byte_level_folder)
    assert (tokenizer.bos_token, tokenizer.eos_token) == ("<bos>", "<eos>")
    assert tokenizer.stop_token_ids == {eos}
    assert tokenizer.encode("")[0] == bos


def test_every_file_may_name_stop_tokens(byte_level_folder: Path) -> None:
    write(byte_level_folder, "generation_config.json", eos_token_id=[1, 2])
    write(byte_level_folder, "config.json", eos_token_id=3)
    write(byte_level_folder, "tokenizer_config.json", eos_token="<eos>")
    tokenizer = load_tokenizer(byte_level_folder)
    assert tokenizer.stop_token_ids == {1, 2, 3, *tokenizer.encode("<eos>", add_bos=False)}


def test_the_older_map_of_special_tokens_stands_in_for_the_config(byte_level_folder: Path) -> None:
    write(byte_level_folder, "special_tokens_map.json", bos_token={"content": "<bos>"}, eos_token="<end>")
    write(byte_level_folder, "tokenizer_config.json", eos_token="<eos>")
    tokenizer = load_tokenizer(byte_level_folder)
    assert (tokenizer.bos_token, tokenizer.eos_token) == ("<bos>", "<eos>")


@pytest.mark.parametrize(("stated", "expected"), [(None, None), ("", "<bos>")])
def test_null_means_no_token_and_an_empty_text_says_nothing(
    byte_level_folder: Path, stated: str | None, expected: str | None
) -> None:
    [bos] = load_tokenizer(byte_level_folder).encode("<bos>", add_bos=False)
    write(byte_level_folder, "config.json", bos_token_id=bos)
    write(byte_level_folder, "tokenizer_config.json", bos_token=stated)
    assert load_tokenizer(byte_level_folder).bos_token == expected


def test_lone_surrogates_are_replaced_and_pairs_joined(byte_level: ModelTokenizer) -> None:
    ids = byte_level.encode("a\ud800b\ud83d\ude00", add_bos=False)
    assert byte_level.decode(ids) == "a\ufffdb\U0001f600"


@given(st.text(max_size=40))
def test_byte_level_text_decodes_to_itself(byte_level: ModelTokenizer, text: str) -> None:
    assert byte_level.decode(byte_level.encode(text, add_bos=False), skip_special=False) == text


def test_decoding_leaves_special_tokens_out_on_demand(byte_level: ModelTokenizer) -> None:
    ids = byte_level.encode("hello<eos>")
    assert byte_level.decode(ids) == "hello"
    assert byte_level.decode(ids, skip_special=False) == "<bos>hello<eos>"


def test_vocab_size_counts_added_tokens(byte_level: ModelTokenizer) -> None:
    assert byte_level.vocab_size == 256 + 5 + 3


def test_no_tokenizer_at_all_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidModel, match=r"no tokenizer\.json"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"model": {"type": "BPE", "vocab": {}, "merges": ["a b"]}}'])
def test_a_damaged_tokenizer_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "tokenizer.json").write_text(content, encoding="utf-8")
    with pytest.raises(InvalidModel, match=r"tokenizer\.json"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("tokenizer_config.json", "{"),
        ("tokenizer_config.json", "[]"),
        ("tokenizer_config.json", '{"bos_token": "<absent>"}'),
        ("tokenizer_config.json", '{"bos_token": 3}'),
        ("tokenizer_config.json", '{"add_bos_token": "yes"}'),
        ("generation_config.json", '{"eos_token_id": "2"}'),
        ("generation_config.json", '{"eos_token_id": [true]}'),
        ("config.json", '{"eos_token_id": -1}'),
    ],
)
def test_contradictory_files_are_named(byte_level_folder: Path, name: str, content: str) -> None:
    (byte_level_folder / name).write_text(content, encoding="utf-8")
    with pytest.raises(InvalidModel, match=name.replace(".", r"\.")):
        load_tokenizer(byte_level_folder)
