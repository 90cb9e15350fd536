"""Real vocabularies of both kinds of tokenizer.model, with the libraries they were made for as the reference."""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import pytest
import sentencepiece
import tiktoken
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from exo_lite.catalog.table import load_table
from exo_lite.store.gguf.file import GGUFFile
from exo_lite.store.gguf.vocabulary import tokenizer_files
from exo_lite.store.model_store import ModelStore
from exo_lite.tokenizer.byte_level import LLAMA3_WORDS
from exo_lite.tokenizer.chat_template import ChatTemplate
from exo_lite.tokenizer.incremental import IncrementalDetokenizer
from exo_lite.tokenizer.model_tokenizer import ModelTokenizer
from exo_lite.tokenizer.tiktoken_ranks import merges_by_rank, read_ranks
from exo_lite.tokenizer.tokenizer_files import load_tokenizer
from tests.unit.store.tiny_models import SPEC, random_tensors, write_hf_folder

KINDS = ["llama3", "sentencepiece", "llama3 in GGUF", "sentencepiece in GGUF"]
TEXTS = [
    "",
    " ",
    "The capital of France is",
    "  leading and trailing  ",
    "def f(x):\n\treturn x ** 2\r\n\n\n#\t\ttabs \t mixed\n    }\n",
    "日本語の文章。中文句子,한국어 문장",
    "👩‍👩‍👧‍👦 👍🏽 🇯🇵 ☕️ 😀😀",
    "e\u0301 n\u0303 Z\u0351\u036b\u0343 \u0915\u094d\u0937 \ufeff",
    "العربية עברית ไทย አማርኛ မြန်မာ",
    "\0\x01\x07\x1b[0m\x7f\x85\u200b\u2028",
    " " * 300 + "x" + "\n" * 40 + "\t" * 40 + " \n" * 20,
    "0 12 345 6789 1234567890 3.14159 1e-9 ٣٤٥ ½ 10,000",
    "lone \ud800 surrogates \udfff, and a pair \ud83d\ude00",
    "It's YOU'LL we'RE \u017f's \u0130'\u017f",
    "a" * 500 + "=" * 77 + "ab" * 99,
    "<s>[INST] special </s><s>written <unk> out",
    "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|><|reserved_special_token_99|>",
    "<|eot_id|> and <|not_special|> and <0x0A> and ▁",
]


class Reference(Protocol):
    """Ids of a text without BOS, special tokens written out taken as such."""

    def encode(self, text: str) -> list[int]: ...


@dataclass(frozen=True)
class Tiktoken:
    encoding: tiktoken.Encoding

    def encode(self, text: str) -> list[int]:
        return self.encoding.encode(text, allowed_special="all")


@dataclass(frozen=True)
class SentencePiece:
    """Meta's way with chats: what stands between special tokens is encoded by itself."""

    processor: sentencepiece.SentencePieceProcessor

    def encode(self, text: str) -> list[int]:
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        ids: list[int] = []
        for part in re.split("(<unk>|<s>|</s>)", text):
            is_special = part in ("<unk>", "<s>", "</s>")
            ids += [self.processor.piece_to_id(part)] if is_special else self.processor.encode(part)
        return ids


@dataclass(frozen=True)
class Pair:
    tokenizer: ModelTokenizer
    reference: Reference


@pytest.fixture(scope="module")
def pairs(
    llama3_tokenizer_model: Path, sentencepiece_tokenizer_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Pair]:
    """Every kind with its reference."""
    ranks = {
        base64.b64decode(token): int(rank)
        for token, rank in (line.split() for line in llama3_tokenizer_model.read_bytes().splitlines())
    }
    bare = load_bare(llama3_tokenizer_model, tmp_path_factory.mktemp("llama3"))
    names = [bare.decode([token_id], skip_special=False) for token_id in range(128_000, 128_256)]
    special = {name: 128_000 + index for index, name in enumerate(names)}
    encoding = tiktoken.Encoding("llama3", pat_str=LLAMA3_WORDS, mergeable_ranks=ranks, special_tokens=special)
    processor = sentencepiece.SentencePieceProcessor(model_proto=sentencepiece_tokenizer_model.read_bytes())
    by_meta, by_google = Tiktoken(encoding), SentencePiece(processor)
    in_gguf = {"llama3": llama3_metadata(ranks, names), "sentencepiece": sentencepiece_metadata(processor)}
    return {
        "llama3": Pair(bare, by_meta),
        "sentencepiece": Pair(load_bare(sentencepiece_tokenizer_model, tmp_path_factory.mktemp("spm")), by_google),
        "llama3 in GGUF": Pair(load_gguf(in_gguf["llama3"], tmp_path_factory.mktemp("l3-gguf")), by_meta),
        "sentencepiece in GGUF": Pair(load_gguf(in_gguf["sentencepiece"], tmp_path_factory.mktemp("gguf")), by_google),
    }


def load_bare(tokenizer_model: Path, folder: Path) -> ModelTokenizer:
    (folder / "tokenizer.model").write_bytes(tokenizer_model.read_bytes())
    return load_tokenizer(folder)


def load_gguf(metadata: dict[str, object], folder: Path) -> ModelTokenizer:
    for name, content in tokenizer_files(GGUFFile("real.gguf", metadata, {}), 4096).items():
        (folder / name).write_bytes(content)
    return load_tokenizer(folder)


def llama3_metadata(ranks: dict[bytes, int], special: list[str]) -> dict[str, object]:
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    characters = {byte: chr(byte) for byte in printable} | {byte: chr(256 + n) for n, byte in enumerate(others)}
    words = {token: "".join(characters[byte] for byte in token) for token in ranks}
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "llama-bpe",
        "tokenizer.ggml.tokens": [*words.values(), *special],
        "tokenizer.ggml.token_type": [1] * len(ranks) + [3] * len(special),
        "tokenizer.ggml.merges": [f"{words[left]} {words[right]}" for left, right in merges_by_rank(ranks)],
        "tokenizer.ggml.bos_token_id": 128_000,
        "tokenizer.ggml.eos_token_id": 128_009,
    }


def sentencepiece_metadata(processor: sentencepiece.SentencePieceProcessor) -> dict[str, object]:
    size = processor.get_piece_size()
    kinds = {0: 2, 1: 3, 2: 3} | {index: 6 for index in range(size) if processor.is_byte(index)}
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": [processor.id_to_piece(index) for index in range(size)],
        "tokenizer.ggml.scores": [processor.get_score(index) for index in range(size)],
        "tokenizer.ggml.token_type": [kinds.get(index, 1) for index in range(size)],
    }


def pieces_of(tokenizer: ModelTokenizer, ids: Sequence[int]) -> list[str]:
    detokenizer = IncrementalDetokenizer(tokenizer)
    return [*(detokenizer.push(token_id) for token_id in ids), detokenizer.finish()]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("text", TEXTS)
def test_ids_are_those_of_the_reference_after_one_bos(pairs: dict[str, Pair], kind: str, text: str) -> None:
    tokenizer, ids = pairs[kind].tokenizer, pairs[kind].reference.encode(text)
    assert tokenizer.encode(text, add_bos=False) == ids
    bos = tokenizer.special.bos_token_id
    assert tokenizer.encode(text) == (ids if ids[:1] == [bos] else [bos, *ids])


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=200, deadline=None)
@given(text=st.one_of(st.text(max_size=40), st.text("ab \n'sS1=-<|>▁é日😀", max_size=60)))
@example(text="\ud800")
def test_any_text_has_the_ids_of_the_reference(pairs: dict[str, Pair], kind: str, text: str) -> None:
    assert pairs[kind].tokenizer.encode(text, add_bos=False) == pairs[kind].reference.encode(text)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=200, deadline=None)
@given(unit=st.text(min_size=1, max_size=4), count=st.integers(1, 300), around=st.text(max_size=20))
@example(unit=" \n", count=300, around="")
@example(unit="-", count=300, around="\ud800")
def test_the_fewest_tokens_that_a_text_can_have_are_no_more_than_it_has(
    pairs: dict[str, Pair], kind: str, unit: str, count: int, around: str
) -> None:
    tokenizer, text = pairs[kind].tokenizer, around + unit * count + around
    assert tokenizer.min_tokens(text) <= len(tokenizer.encode(text, add_bos=False))
    assert tokenizer.min_tokens("The quick brown fox. " * 100_000) > 4096  # and they are of use


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=100, deadline=None)
@given(unit=st.text(min_size=1, max_size=3), count=st.integers(1, 200), around=st.text(max_size=3))
def test_repetitions_have_the_ids_of_the_reference(
    pairs: dict[str, Pair], kind: str, unit: str, count: int, around: str
) -> None:
    text = around + unit * count + around
    assert pairs[kind].tokenizer.encode(text, add_bos=False) == pairs[kind].reference.encode(text)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=100, deadline=None)
@given(text=st.text(max_size=40))
@example(text="👩‍👩‍👧‍👦 አማርኛ\n日本")
def test_text_comes_back_and_never_in_halves(pairs: dict[str, Pair], kind: str, text: str) -> None:
    tokenizer = pairs[kind].tokenizer
    text = text.replace("▁", " ")  # the character that SentencePiece writes for a space
    ids = tokenizer.encode(text, add_bos=False)
    assume(not any(tokenizer.is_skipped(token_id) for token_id in ids))
    assert tokenizer.decode(ids) == "".join(pieces := pieces_of(tokenizer, ids)) == text
    assert sum(piece.count("\ufffd") for piece in pieces) == text.count("\ufffd")


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_random_ids_join_to_the_text_decoded_at_once(pairs: dict[str, Pair], kind: str, data: st.DataObject) -> None:
    tokenizer = pairs[kind].tokenizer
    few = st.integers(0, 300)  # bytes, spaces and control tokens
    ids = data.draw(st.lists(st.one_of(few, st.integers(0, tokenizer.vocab_size + 5)), max_size=40))
    assert "".join(pieces_of(tokenizer, ids)) == tokenizer.decode(ids)


def test_sentencepiece_bytes_are_out_as_soon_as_they_are_a_character(pairs: dict[str, Pair]) -> None:
    tokenizer = pairs["sentencepiece"].tokenizer
    assert pieces_of(tokenizer, tokenizer.encode("ꦗꦮ", add_bos=False)) == ["", "", "", "ꦗ", "", "", "ꦮ", ""]


@settings(max_examples=100, deadline=None)
@given(text=st.text(max_size=40))
def test_decoding_agrees_with_sentencepiece(pairs: dict[str, Pair], text: str) -> None:
    tokenizer, reference = pairs["sentencepiece"].tokenizer, pairs["sentencepiece"].reference
    assert isinstance(reference, SentencePiece)
    ids = reference.processor.encode(text)
    assert tokenizer.decode(ids) == reference.processor.decode(ids)


@pytest.mark.parametrize("kind", KINDS)
def test_long_texts_take_no_time(pairs: dict[str, Pair], kind: str) -> None:
    text = "x" * 50_000 + " " * 50_000 + "word " * 10_000
    tokenizer = pairs[kind].tokenizer
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_llama3_has_metas_special_tokens(pairs: dict[str, Pair]) -> None:
    tokenizer = pairs["llama3"].tokenizer
    assert tokenizer.vocab_size == 128_256
    assert (tokenizer.bos_token, tokenizer.special.bos_token_id) == ("<|begin_of_text|>", 128_000)
    assert tokenizer.stop_token_ids == {128_001, 128_008, 128_009}
    written = "<|start_header_id|><|end_header_id|><|eom_id|><|eot_id|><|python_tag|><|reserved_special_token_245|>"
    assert tokenizer.encode(written, add_bos=False) == [128_006, 128_007, 128_008, 128_009, 128_010, 128_255]
    assert tokenizer.decode(tokenizer.encode(written)) == ""


def test_files_beside_rename_and_add_tokens_of_llama3(llama3_tokenizer_model: Path, tmp_path: Path) -> None:
    (tmp_path / "tokenizer_config.json").write_text(
        '{"bos_token": "<|begin_of_text|>", "eos_token": "<|done|>", "added_tokens_decoder": {'
        '"128005": {"content": "<|done|>", "special": true}, "128256": {"content": "<tool>", "special": false}}}',
        encoding="utf-8",
    )
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [7, 128002]}', encoding="utf-8")
    tokenizer = load_bare(llama3_tokenizer_model, tmp_path)
    assert tokenizer.vocab_size == 128_257
    assert tokenizer.encode("<|done|><tool>", add_bos=False) == [128_005, 128_256]
    assert tokenizer.decode([128_005, 128_256]) == "<tool>"
    assert tokenizer.stop_token_ids == {7, 128_001, 128_002, 128_005, 128_008, 128_009}


def test_ranks_are_read_as_tiktoken_reads_them(llama3_tokenizer_model: Path) -> None:
    content = llama3_tokenizer_model.read_bytes()
    ranks = read_ranks(content)
    assert list(ranks.values()) == list(range(128_000))
    assert ranks[b" the"] == 279


def test_a_folder_with_only_a_tokenizer_model_is_taken_in(
    sentencepiece_tokenizer_model: Path, pairs: dict[str, Pair], tmp_path: Path
) -> None:
    spec = replace(SPEC, vocab_size=32_000)
    folder = write_hf_folder(tmp_path / "vicuna", spec, random_tensors(spec))
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer.model").write_bytes(sentencepiece_tokenizer_model.read_bytes())
    (folder / "special_tokens_map.json").write_text('{"pad_token": "<unk>"}', encoding="utf-8")
    model = ModelStore(tmp_path / "models").import_path(folder, "vicuna-7b", lambda num_written, num_bytes: None)
    tokenizer = load_tokenizer(model.path)
    assert tokenizer.special.pad_token == "<unk>"
    assert tokenizer.encode("hi there") == [1, *pairs["sentencepiece"].reference.encode("hi there")]


DIALOG = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": " What is 2 + 2? "},
    {"role": "assistant", "content": "4"},
    {"role": "user", "content": "And «日本» 😀?\n"},
]


def chat_ids(pair: Pair, model_id: str) -> list[int]:
    """As a daemon makes them: the template writes BOS itself."""
    row = load_table().find(model_id)
    assert row is not None
    assert row.chat_template is not None
    prompt = ChatTemplate(row.chat_template, pair.tokenizer.special).render(DIALOG)
    return pair.tokenizer.encode(prompt, add_bos=False)


def test_a_llama2_chat_has_the_ids_of_metas_code(pairs: dict[str, Pair]) -> None:
    encode = pairs["sentencepiece"].reference.encode
    first = "[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\n What is 2 + 2? [/INST] 4 "
    expected = [1, *encode(first), 2, 1, *encode("[INST] And «日本» 😀? [/INST]")]
    assert chat_ids(pairs["sentencepiece"], "llama-2-7b") == expected


def test_a_llama3_chat_has_the_ids_of_metas_code(pairs: dict[str, Pair]) -> None:
    encode = pairs["llama3"].reference.encode

    def header(role: str) -> list[int]:
        return [128_006, *encode(role), 128_007, *encode("\n\n")]

    turns = [[*header(one["role"]), *encode(one["content"].strip()), 128_009] for one in DIALOG]
    expected = [128_000, *(token_id for turn in turns for token_id in turn), *header("assistant")]
    assert chat_ids(pairs["llama3"], "llama-3.1-8b") == expected


@pytest.mark.parametrize("model_id", ["llama-2-7b", "llama-3-8b", "vicuna-7b", "alpaca-7b"])
@pytest.mark.parametrize("dialog", [DIALOG, DIALOG[1:], DIALOG[1:2], DIALOG[:3]])
@pytest.mark.parametrize("add_generation_prompt", [True, False])
def test_templates_of_the_shard_table_render_as_in_transformers(
    pairs: dict[str, Pair], model_id: str, dialog: list[dict[str, str]], add_generation_prompt: bool
) -> None:
    row = load_table().find(model_id)
    assert row is not None
    assert row.chat_template is not None
    special = pairs["sentencepiece"].tokenizer.special
    ours = ChatTemplate(row.chat_template, special).render(dialog, add_generation_prompt=add_generation_prompt)
    theirs = PreTrainedTokenizerFast(
        tokenizer_object=tiny_backend(), bos_token=special.bos_token, eos_token=special.eos_token
    ).apply_chat_template(
        dialog, chat_template=row.chat_template, add_generation_prompt=add_generation_prompt, tokenize=False
    )
    assert ours == theirs


@pytest.mark.parametrize("model_id", ["llama-2-7b", "llama-3-8b", "vicuna-7b"])
@pytest.mark.parametrize("content", ["Well,", "  Well, I  ", "a\n\nb\n"])
def test_a_chat_that_goes_on_is_rendered_as_in_transformers(
    pairs: dict[str, Pair], model_id: str, content: str
) -> None:
    row = load_table().find(model_id)
    assert row is not None
    assert row.chat_template is not None
    dialog = [*DIALOG[1:2], {"role": "assistant", "content": content}]
    special = pairs["sentencepiece"].tokenizer.special
    ours = ChatTemplate(row.chat_template, special).render(dialog, add_generation_prompt=False, continues_last=True)
    theirs = PreTrainedTokenizerFast(
        tokenizer_object=tiny_backend(), bos_token=special.bos_token, eos_token=special.eos_token
    ).apply_chat_template(dialog, chat_template=row.chat_template, continue_final_message=True, tokenize=False)
    assert ours == theirs


def tiny_backend() -> Tokenizer:

    return Tokenizer(models.BPE(vocab={"a": 0}, merges=[]))
