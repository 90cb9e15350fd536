"""Bare tokenizer.model files, with small models that sentencepiece itself trains."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from exo_lite.domain.errors import ExoLiteError, InvalidModel, UnsupportedModel
from exo_lite.tokenizer.incremental import IncrementalDetokenizer
from exo_lite.tokenizer.model_tokenizer import ModelTokenizer
from exo_lite.tokenizer.tiktoken_ranks import merges_by_rank, read_ranks
from exo_lite.tokenizer.tokenizer_files import load_tokenizer

SAMPLES = ["the cat sat on the mat", "a hat that the cat had", "in the heat of the night", "hello there, world 2024"]
KINDS: dict[str, dict[str, Any]] = {
    "llama": {"model_type": "bpe", "normalization_rule_name": "identity", "remove_extra_whitespaces": False},
    "unigram": {"model_type": "unigram", "normalization_rule_name": "nmt_nfkc", "remove_extra_whitespaces": False},
    "no prefix": {"model_type": "bpe", "normalization_rule_name": "identity", "add_dummy_prefix": False},
    "symbols": {"model_type": "bpe", "control_symbols": ["[INST]"], "user_defined_symbols": ["<tool>"]},
}
SINGLE_BYTES = [bytes([byte]) for byte in range(256)]


def trained(**options: Any) -> bytes:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SAMPLES),
        model_writer=model,
        **{"vocab_size": 310, "hard_vocab_limit": False, "byte_fallback": True, "minloglevel": 2, **options},
    )
    return model.getvalue()


def load(folder: Path, content: bytes, **files: object) -> ModelTokenizer:
    (folder / "tokenizer.model").write_bytes(content)
    for name, values in files.items():
        (folder / f"{name}.json").write_text(json.dumps(values), encoding="utf-8")
    return load_tokenizer(folder)


@pytest.fixture(scope="module")
def models() -> dict[str, bytes]:
    return {kind: trained(**options) for kind, options in KINDS.items()}


@pytest.fixture(scope="module")
def loaded(models: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory) -> dict[str, ModelTokenizer]:
    return {kind: load(tmp_path_factory.mktemp("model"), content) for kind, content in models.items()}


@pytest.mark.parametrize("kind", KINDS)
@given(text=st.one_of(st.text("the catsonhi ,é😀½", max_size=25), st.text(max_size=10)))
def test_ids_are_those_of_the_library(
    models: dict[str, bytes], loaded: dict[str, ModelTokenizer], kind: str, text: str
) -> None:
    processor = sentencepiece.SentencePieceProcessor(model_proto=models[kind])
    assume(not any(token in text for token in ("<unk>", "<s>", "</s>", "[INST]")))  # plain text there, special here
    assert loaded[kind].encode(text) == [1, *processor.encode(text)]


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=200)
@given(ids=st.lists(st.one_of(st.integers(0, 320), st.integers(195, 264)), max_size=30))
def test_random_ids_join_to_the_text_decoded_at_once(
    loaded: dict[str, ModelTokenizer], kind: str, ids: list[int]
) -> None:
    detokenizer = IncrementalDetokenizer(loaded[kind])
    pieces = [*(detokenizer.push(token_id) for token_id in ids), detokenizer.finish()]
    assert "".join(pieces) == loaded[kind].decode(ids)


def test_the_file_itself_names_its_special_tokens(models: dict[str, bytes], tmp_path: Path) -> None:
    tokenizer = load(tmp_path, models["llama"], tokenizer_config={"bos_token": "", "eos_token": ""})
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.special.unk_token) == ("<s>", "</s>", "<unk>")
    assert tokenizer.stop_token_ids == {2}


def test_special_tokens_in_text_become_their_ids(loaded: dict[str, ModelTokenizer]) -> None:
    tokenizer = loaded["llama"]
    the, cat = tokenizer.encode("the", add_bos=False), tokenizer.encode(" cat", add_bos=False)
    assert tokenizer.encode("<s>the</s> cat<unk>") == [1, *the, 2, *cat, 0]
    assert tokenizer.decode([1, *the, 2, *cat, 0]) == "the  cat"
    assert tokenizer.decode([1, *the, 2, *cat, 0], skip_special=False) == "<s>the</s> cat<unk>"


def test_control_pieces_are_special_and_user_defined_ones_are_text(loaded: dict[str, ModelTokenizer]) -> None:
    tokenizer = loaded["symbols"]
    ids = tokenizer.encode("[INST]<tool>", add_bos=False)
    assert 3 in ids
    assert tokenizer.is_skipped(3)
    assert tokenizer.decode(ids) == "<tool>"


def test_ends_that_a_file_does_not_name_end_an_answer_too(tmp_path: Path) -> None:
    content = trained(model_type="bpe", control_symbols=["<|im_end|>"], user_defined_symbols=["<end_of_turn>"])
    tokenizer = load(tmp_path, content, added_tokens={"<|eot_id|>": 400})
    assert tokenizer.stop_token_ids == {2, 3, 4, 400}


def test_the_files_beside_may_add_tokens(models: dict[str, bytes], tmp_path: Path) -> None:
    size = sentencepiece.SentencePieceProcessor(model_proto=models["llama"]).get_piece_size()
    entries = {str(size + 1): {"content": "<tool>", "special": False}}
    tokenizer = load(
        tmp_path,
        models["llama"],
        added_tokens={"[PAD]": size},
        tokenizer_config={"pad_token": "[PAD]", "eos_token": "[PAD]", "added_tokens_decoder": entries},
        generation_config={"eos_token_id": [2, 5]},
    )
    assert tokenizer.vocab_size == size + 2
    ids = tokenizer.encode("the[PAD]<tool>cat", add_bos=False)
    assert [token_id for token_id in ids if token_id >= size] == [size, size + 1]
    assert tokenizer.decode(ids) == "the<tool>cat"
    assert tokenizer.stop_token_ids == {2, 5, size}


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        ({}, "the <tool> cat"),
        ({"lstrip": True}, "the<tool> cat"),
        ({"rstrip": True}, "the <tool>cat"),
        ({"single_word": True}, "the <tool> cat"),
    ],
)
def test_added_tokens_take_in_the_spaces_that_their_flags_say(
    models: dict[str, bytes], tmp_path: Path, flags: dict[str, bool], text: str
) -> None:
    entry = {"content": "<tool>", "special": False, "normalized": False, **flags}
    config = {"legacy": False, "added_tokens_decoder": {"400": entry}}
    tokenizer = load(tmp_path, models["llama"], tokenizer_config=config)
    ids = tokenizer.encode("the <tool> cat", add_bos=False)
    assert ids.count(400) == 1
    assert tokenizer.decode(ids) == text
    assert (400 in tokenizer.encode("the<tool>cat")) is ("single_word" not in flags)


@pytest.mark.parametrize(
    ("config", "pieces"),
    [
        ({}, [" the", "</s>", " cat"]),
        ({"legacy": True}, [" the", "</s>", " cat"]),
        ({"legacy": False}, [" the", "</s>", "c", "at"]),
        ({"add_prefix_space": False}, ["t", "he", "</s>", "c", "at"]),
        ({"add_prefix_space": False, "legacy": True}, ["t", "he", "</s>", "c", "at"]),
    ],
)
def test_the_config_says_which_stretches_a_space_leads(
    models: dict[str, bytes], tmp_path: Path, config: dict[str, bool], pieces: list[str]
) -> None:
    tokenizer = load(tmp_path, models["llama"], tokenizer_config=config)
    ids = tokenizer.encode("the</s>cat", add_bos=False)
    assert [tokenizer.token_bytes(token_id).decode() for token_id in ids] == pieces
    assert tokenizer.decode(ids, skip_special=False) == "the</s>cat"


def test_text_without_a_leading_space_keeps_the_one_it_has(models: dict[str, bytes], tmp_path: Path) -> None:
    tokenizer = load(tmp_path, models["llama"], tokenizer_config={"add_prefix_space": False})
    ids = tokenizer.encode(" the cat", add_bos=False)
    assert tokenizer.decode(ids) == " the cat"


def test_a_token_that_only_a_list_names_has_the_next_id(models: dict[str, bytes], tmp_path: Path) -> None:
    size = sentencepiece.SentencePieceProcessor(model_proto=models["llama"]).get_piece_size()
    tokenizer = load(
        tmp_path,
        models["llama"],
        special_tokens_map={"pad_token": "[PAD]", "additional_special_tokens": ["<tool>", {"content": "▁the"}]},
    )
    ids = tokenizer.encode("[PAD]<tool>", add_bos=False)
    assert ids == [size, size + 1]
    assert tokenizer.decode(ids) == ""
    assert tokenizer.vocab_size == size + 2
    assert tokenizer.is_skipped(tokenizer.encode("the", add_bos=False)[0])  # a piece of the model in a role


def test_a_config_may_switch_bos_off(models: dict[str, bytes], tmp_path: Path) -> None:
    tokenizer = load(tmp_path, models["llama"], tokenizer_config={"add_bos_token": False})
    assert tokenizer.encode("the") == tokenizer.encode("the", add_bos=False)


def test_tokenizer_json_goes_before(byte_level_folder: Path, models: dict[str, bytes]) -> None:
    assert load(byte_level_folder, models["llama"]).vocab_size == 256 + 5 + 3


def ranks_file(tokens: list[bytes]) -> bytes:
    return b"".join(b"%s %d\n" % (base64.b64encode(token), rank) for rank, token in enumerate(tokens))


def test_ranks_are_read() -> None:
    assert read_ranks(ranks_file([*SINGLE_BYTES, b"ab"]))[b"ab"] == 256


def test_every_way_to_a_token_is_a_merge_in_the_order_of_ranks() -> None:
    ranks = {token: rank for rank, token in enumerate([b"a", b"b", b"bb", b"ab", b"abb"])}
    assert merges_by_rank(ranks) == [(b"b", b"b"), (b"a", b"b"), (b"a", b"bb"), (b"ab", b"b")]


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        (b"", InvalidModel, "neither a SentencePiece nor a tiktoken file"),
        (b"x", InvalidModel, "neither a SentencePiece nor a tiktoken file"),
        (bytes(1000), InvalidModel, "neither a SentencePiece nor a tiktoken file"),
        (b"IQ== 0\nIg== 1\n", InvalidModel, "lacks some of the 256 single bytes"),
        (b"IQ== 0\nIg==1\n", InvalidModel, "line 2"),
        (b"IQ== 0\nI!== 1\n", InvalidModel, "line 2"),
        (b"IQ== 0\nIQ== 1\n", InvalidModel, "line 2 repeats a token"),
        (b"IQ== 0\nIg== 2\n", InvalidModel, "not of rank 1"),
        (ranks_file([*SINGLE_BYTES, b"ab"]), UnsupportedModel, r"257 ranks.*tokenizer\.json"),
    ],
)
def test_a_damaged_or_unknown_file_is_refused(
    tmp_path: Path, content: bytes, error: type[ExoLiteError], message: str
) -> None:
    with pytest.raises(error, match=message):
        load(tmp_path, content)


@given(data=st.data())
def test_a_cut_off_file_is_refused(
    models: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    content = models["llama"]
    length = data.draw(st.integers(0, len(content) // 2))
    with pytest.raises(InvalidModel):
        load(tmp_path_factory.mktemp("cut"), content[:length])


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("added_tokens", {"a": -1}),
        ("added_tokens", {"a": "x"}),
        ("added_tokens", {"a": 2**40}),
        ("added_tokens", {"": 400}),
        ("tokenizer_config", {"added_tokens_decoder": [1]}),
        ("tokenizer_config", {"added_tokens_decoder": {"x": {"content": "a"}}}),
        ("tokenizer_config", {"added_tokens_decoder": {"400": "a"}}),
        ("tokenizer_config", {"added_tokens_decoder": {"400": {"content": "a"}, "401": {"content": "a"}}}),
        ("tokenizer_config", {"eos_token": "<absent>"}),
    ],
)
def test_unsound_files_beside_are_named(
    models: dict[str, bytes], tmp_path: Path, name: str, content: dict[str, object]
) -> None:
    with pytest.raises(InvalidModel, match=name):
        load(tmp_path, models["llama"], **{name: content})


def test_a_file_beyond_all_measure_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "tokenizer.model").open("wb") as file:
        file.truncate(2**30)
    with pytest.raises(InvalidModel, match="more than"):
        load_tokenizer(tmp_path)
