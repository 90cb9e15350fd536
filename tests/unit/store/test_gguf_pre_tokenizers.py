from __future__ import annotations

import pytest

from exo_lite.store.gguf.byte_level import adds_bos_by_default
from exo_lite.store.gguf.file import GGUFFile
from exo_lite.store.gguf.pre_tokenizers import CUTTINGS, pre_tokenizer

TEXT = "it'S aB12345 <=>\n x/"


@pytest.mark.parametrize(
    ("way", "pieces"),
    [
        ("gpt-2", ["it", "'", "S", "ĠaB", "12345", "Ġ<=>", "Ċ", "Ġx", "/"]),
        ("default", ["it", "'", "S", "ĠaB", "123", "45", "Ġ", "<=>", "Ċ", "Ġx", "/"]),
        ("falcon", ["it", "'", "S", "ĠaB", "123", "45", "Ġ", "<=>", "Ċ", "Ġx", "/"]),
        ("smollm", ["it", "'", "S", "ĠaB", "1", "2", "3", "4", "5", "Ġ<=>", "Ċ", "Ġx", "/"]),
        ("llama-bpe", ["it", "'S", "ĠaB", "123", "45", "Ġ<=>Ċ", "Ġx", "/"]),
        ("qwen2", ["it", "'S", "ĠaB", "1", "2", "3", "4", "5", "Ġ<=>Ċ", "Ġx", "/"]),
        ("tekken", ["it", "'S", "Ġa", "B", "1", "2", "3", "4", "5", "Ġ<=>Ċ", "Ġx", "/"]),
        ("gpt-4o", ["it'S", "Ġa", "B", "123", "45", "Ġ<=>Ċ", "Ġx", "/"]),
        ("deepseek-coder", ["it", "'", "S", "ĠaB", "1", "2", "3", "4", "5", "Ġ<=>", "Ċ", "Ġx", "/"]),
    ],
)
def test_text_is_cut_in_the_way_of_a_name(way: str, pieces: list[str]) -> None:
    assert [piece for piece, _ in pre_tokenizer(CUTTINGS[way]).pre_tokenize_str(TEXT)] == pieces


@pytest.mark.parametrize(
    ("one", "other"),
    [("llama-bpe", "falcon3"), ("qwen2", "deepseek-r1-qwen"), ("smollm", "starcoder"), ("deepseek-v3", "joyai-llm")],
)
def test_some_ways_have_several_names(one: str, other: str) -> None:
    assert CUTTINGS[one] is CUTTINGS[other]


@pytest.mark.parametrize(("way", "expected"), [("tekken", True), ("falcon3", True), ("smaug-bpe", False), ("?", False)])
def test_bos_leads_by_default_where_it_does_in_llama_cpp(way: str, expected: bool) -> None:
    assert adds_bos_by_default(GGUFFile("tiny.gguf", {"tokenizer.ggml.pre": way}, {})) is expected


def test_a_file_that_names_no_way_adds_no_bos() -> None:
    assert not adds_bos_by_default(GGUFFile("tiny.gguf", {}, {}))
