from __future__ import annotations

import io
from pathlib import Path

import pytest
import sentencepiece
from hypothesis import assume, given
from hypothesis import strategies as st

from exo_lite.domain.errors import ExoLiteError, InvalidModel, UnsupportedModel
from exo_lite.store.gguf.file import GGUFFile
from exo_lite.store.gguf.pre_tokenizers import CUTTINGS
from exo_lite.store.gguf.vocabulary import tokenizer_files
from exo_lite.tokenizer.model_tokenizer import ModelTokenizer
from exo_lite.tokenizer.tokenizer_files import load_tokenizer
from tests.unit.store.tiny_models import TOKEN_TYPES, TOKENS, byte_level_metadata

SAMPLES = ["the cat sat on the mat", "a hat that the cat had", "in the heat of the night", "hello there, world 2024"]


def load(metadata: dict[str, object], folder: Path) -> ModelTokenizer:
    for name, content in tokenizer_files(GGUFFile("tiny.gguf", metadata, {}), 64).items():
        (folder / name).write_bytes(content)
    return load_tokenizer(folder)


def with_bytes(metadata: dict[str, object], extra: list[str]) -> dict[str, object]:
    """A vocabulary of all 256 bytes, then `extra`, then two control tokens."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    alphabet = [chr(byte) for byte in printable] + [chr(256 + index) for index in range(len(others))]
    tokens = [*alphabet, *extra, "<s>", "</s>"]
    return metadata | {
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [1] * (256 + len(extra)) + [3, 3],
        "tokenizer.ggml.merges": [f"{one[0]} {one[1:]}" for one in extra],
        "tokenizer.ggml.bos_token_id": len(tokens) - 2,
        "tokenizer.ggml.eos_token_id": len(tokens) - 1,
    }


def pieces(tokenizer: ModelTokenizer, text: str) -> list[str]:
    return [tokenizer.decode([token_id], skip_special=False) for token_id in tokenizer.encode(text)]


@pytest.mark.parametrize(
    ("pre", "expected"),
    [
        ("smollm", ["ab", "1", "2", "3", "4", " ", " ", "c"]),
        ("gpt-2", ["ab", "123", "4", " ", " ", "c"]),
        ("llama-bpe", ["<s>", "ab", "123", "4", " ", " ", "c"]),
        ("qwen2", ["ab", "1", "2", "3", "4", " ", " ", "c"]),
    ],
)
def test_text_is_cut_in_the_way_that_the_file_names(tmp_path: Path, pre: str, expected: list[str]) -> None:
    metadata = with_bytes(byte_level_metadata(), ["23", "123", "34", "ab"]) | {"tokenizer.ggml.pre": pre}
    assert pieces(load(metadata, tmp_path), "ab1234  c") == expected


@given(text=st.text(max_size=30), pre=st.sampled_from([way for way, one in CUTTINGS.items() if not one.composes]))
def test_any_text_decodes_to_itself(tmp_path_factory: pytest.TempPathFactory, text: str, pre: str) -> None:
    metadata = with_bytes(byte_level_metadata(), ["ab"]) | {"tokenizer.ggml.pre": pre}
    tokenizer = load(metadata, tmp_path_factory.mktemp("vocabulary"))
    assert tokenizer.decode(tokenizer.encode(text, add_bos=False), skip_special=False) == text


def test_control_tokens_are_special_and_user_defined_ones_are_text(tmp_path: Path) -> None:
    tokenizer = load(byte_level_metadata(), tmp_path)
    ids = tokenizer.encode("<s>ab<extra></s>")
    assert ids == [1, 6, 11, 2]
    assert tokenizer.decode(ids) == "ab<extra>"


@pytest.mark.parametrize(("adds_bos", "expected"), [(None, [3]), (True, [1, 3]), (False, [3])])
def test_the_file_says_whether_bos_leads(tmp_path: Path, adds_bos: bool | None, expected: list[int]) -> None:
    metadata = byte_level_metadata() | ({} if adds_bos is None else {"tokenizer.ggml.add_bos_token": adds_bos})
    assert load(metadata, tmp_path).encode("a") == expected


def test_the_end_of_a_turn_ends_an_answer_too(tmp_path: Path) -> None:
    metadata = byte_level_metadata() | {"tokenizer.ggml.eot_token_id": 0, "tokenizer.ggml.eom_token_id": 11}
    assert load(metadata, tmp_path).stop_token_ids == {0, 2, 11}


@pytest.mark.parametrize("kind", [1, 3, 4])
@pytest.mark.parametrize("end", ["<|endoftext|>", "<|im_end|>", "<|end_of_text|>", "<|eom_id|>"])
def test_ends_that_the_file_does_not_name_end_an_answer_too(tmp_path: Path, end: str, kind: int) -> None:
    """Also one whose type is that of a word, as some converters have it."""
    metadata = byte_level_metadata()
    tokenizer = load(
        metadata | {"tokenizer.ggml.tokens": [*TOKENS, end], "tokenizer.ggml.token_type": [*TOKEN_TYPES, kind]},
        tmp_path,
    )
    assert tokenizer.stop_token_ids == {2, len(TOKENS)}
    assert tokenizer.encode(f"a{end}", add_bos=False) == [3, len(TOKENS)]


def test_a_word_that_merges_make_ends_nothing(tmp_path: Path) -> None:
    extra = ["EO", "EOT", "EOT>", "<EOT>"]
    merges = ["E O", "EO T", "EOT >", "< EOT>"]
    tokenizer = load(with_bytes(byte_level_metadata(), extra) | {"tokenizer.ggml.merges": merges}, tmp_path)
    assert tokenizer.stop_token_ids == {256 + len(extra) + 1}
    assert tokenizer.decode([256 + len(extra) - 1]) == "<EOT>"


@pytest.mark.parametrize(
    ("metadata", "error", "message"),
    [
        ({"tokenizer.ggml.model": "bert"}, UnsupportedModel, "of the kind bert"),
        ({"tokenizer.ggml.pre": "tekken-2"}, UnsupportedModel, "in the way tekken-2; known are gpt-2"),
        ({"tokenizer.ggml.pre": None}, UnsupportedModel, "get a newer one"),
        ({"tokenizer.ggml.merges": ["a"]}, InvalidModel, "merge 'a' is not one of two tokens"),
        ({"tokenizer.ggml.merges": ["a zz"]}, InvalidModel, "merge 'a zz'"),
        ({"tokenizer.ggml.merges": [3]}, InvalidModel, "must be a list of texts"),
        ({"tokenizer.ggml.tokens": [*TOKENS[:-1], "a"]}, InvalidModel, "'a' stands twice"),
        ({"tokenizer.ggml.token_type": TOKEN_TYPES[:-1]}, InvalidModel, "12 tokens, but types for 11"),
        ({"tokenizer.ggml.eos_token_id": 12}, InvalidModel, "is 12, and the vocabulary ends at 11"),
        ({"tokenizer.ggml.tokens": None}, InvalidModel, r"lacks tokenizer\.ggml\.tokens"),
        ({"tokenizer.ggml.add_bos_token": "yes"}, InvalidModel, "must be true or false"),
        ({"tokenizer.ggml.model": "llama", "tokenizer.ggml.scores": [0.0]}, InvalidModel, "scores for 1"),
    ],
)
def test_an_unsound_vocabulary_is_refused(
    tmp_path: Path, metadata: dict[str, object], error: type[ExoLiteError], message: str
) -> None:
    changed = {key: value for key, value in (byte_level_metadata() | metadata).items() if value is not None}
    with pytest.raises(error, match=message):
        load(changed, tmp_path)


def test_a_byte_level_vocabulary_that_calls_itself_sentencepiece_is_refused(tmp_path: Path) -> None:
    """mlx-lm writes such files: every score the same, no merges, no word on how text is cut."""
    metadata = with_bytes(byte_level_metadata(), ["he", "Ġhe"])
    tokens = metadata["tokenizer.ggml.tokens"]
    assert isinstance(tokens, list)
    tokens[1] = "<rare>"  # real vocabularies lack some bytes
    metadata |= {"tokenizer.ggml.model": "llama", "tokenizer.ggml.scores": [-1000.0] * 260}
    metadata = {key: value for key, value in metadata.items() if key.rpartition(".")[2] not in ("merges", "pre")}
    with pytest.raises(UnsupportedModel, match="import the Hugging Face folder"):
        load(metadata, tmp_path)


@pytest.fixture(scope="module")
def processor() -> sentencepiece.SentencePieceProcessor:
    """A small model of the Llama 1 and 2 kind, as the library itself trains it."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SAMPLES),
        model_writer=model,
        model_type="bpe",
        vocab_size=310,
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        minloglevel=2,
    )
    return sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())


@pytest.fixture(scope="module")
def from_scores(
    processor: sentencepiece.SentencePieceProcessor, tmp_path_factory: pytest.TempPathFactory
) -> ModelTokenizer:
    size = processor.get_piece_size()
    kinds = {0: 2, 1: 3, 2: 3} | {index: 6 for index in range(size) if processor.is_byte(index)}
    metadata: dict[str, object] = {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": [processor.id_to_piece(index) for index in range(size)],
        "tokenizer.ggml.scores": [processor.get_score(index) for index in range(size)],
        "tokenizer.ggml.token_type": [kinds.get(index, 1) for index in range(size)],
    }
    return load(metadata, tmp_path_factory.mktemp("sentencepiece"))


@given(text=st.one_of(st.text("the catsonhi ,é😀", max_size=25), st.text(max_size=10)))
def test_merges_from_scores_give_the_ids_of_sentencepiece(
    processor: sentencepiece.SentencePieceProcessor, from_scores: ModelTokenizer, text: str
) -> None:
    assume(not any(token in text for token in ("<unk>", "<s>", "</s>", "\0", "▁")))  # plain text there, special here
    assert from_scores.encode(text, add_bos=False) == processor.encode(text)


def test_a_sentencepiece_vocabulary_leads_with_bos_and_decodes(from_scores: ModelTokenizer) -> None:
    ids = from_scores.encode("the cat 😀")
    assert ids[0] == 1
    assert from_scores.stop_token_ids == {2}
    assert from_scores.decode(ids) == "the cat 😀"
