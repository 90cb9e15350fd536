"""Each way of cutting that a GGUF file may name, with ids that llama.cpp has for the same file as the reference."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
import tiktoken
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from exo_lite.store.gguf.byte_level import byte_level_tokenizer
from exo_lite.store.gguf.file import GGUFFile
from exo_lite.store.gguf.pre_tokenizers import CUTTINGS
from exo_lite.tokenizer.byte_level import byte_characters
from exo_lite.tokenizer.tiktoken_ranks import merges_by_rank, read_ranks

REFERENCE = json.loads((Path(__file__).parent / "llama_cpp_ids.json").read_text(encoding="utf-8"))
"""Written by tests/llama_cpp_ids.py."""


@pytest.fixture(scope="module")
def metadata(llama3_tokenizer_model: Path) -> dict[str, Any]:
    """Llama 3's vocabulary, as a GGUF file has it."""
    return metadata_of(read_ranks(llama3_tokenizer_model.read_bytes()))


def metadata_of(ranks: dict[bytes, int]) -> dict[str, Any]:
    characters = byte_characters()
    words = {token: "".join(characters[byte] for byte in token) for token in ranks}
    return {
        "tokenizer.ggml.tokens": list(words.values()),
        "tokenizer.ggml.merges": [f"{words[left]} {words[right]}" for left, right in merges_by_rank(ranks)],
    }


def test_every_way_has_a_reference() -> None:
    assert {CUTTINGS[way] for way in REFERENCE["ids"]} == set(CUTTINGS.values())


@pytest.mark.parametrize("way", REFERENCE["ids"])
def test_ids_are_those_of_llama_cpp(metadata: dict[str, Any], way: str) -> None:
    file = GGUFFile("reference.gguf", metadata | {"tokenizer.ggml.pre": way}, {})
    tokenizer = byte_level_tokenizer(file, metadata["tokenizer.ggml.tokens"])
    ids = [tokenizer.encode(text, add_special_tokens=False).ids for text in REFERENCE["texts"]]
    wrong = [
        text
        for text, ours, theirs in zip(REFERENCE["texts"], ids, REFERENCE["ids"][way], strict=True)
        if ours != theirs
    ]
    assert not wrong


@pytest.fixture(scope="module")
def tekken(tekken_json: Path) -> tuple[Tokenizer, tiktoken.Encoding]:
    """Mistral's vocabulary in a GGUF file, and as its makers run it."""
    document = json.loads(tekken_json.read_text(encoding="utf-8"))
    num_words = document["config"]["default_vocab_size"] - document["config"]["default_num_special_tokens"]
    ranks = {base64.b64decode(one["token_bytes"]): one["rank"] for one in document["vocab"][:num_words]}
    theirs = tiktoken.Encoding(
        "tekken", pat_str=document["config"]["pattern"], mergeable_ranks=ranks, special_tokens={}
    )
    metadata = metadata_of(ranks)
    file = GGUFFile("tekken.gguf", metadata | {"tokenizer.ggml.pre": "tekken"}, {})
    return byte_level_tokenizer(file, metadata["tokenizer.ggml.tokens"]), theirs


@settings(max_examples=200, deadline=None)
@given(text=st.one_of(st.text(max_size=40), st.text("aBÄßéÉжЖ中1 \n/'.", max_size=40)))
@example("HTTPServer ÜnïCÖdé ПриветМир don't 1234567 日本語\n\n// x")
def test_tekken_ids_are_those_of_tiktoken(tekken: tuple[Tokenizer, tiktoken.Encoding], text: str) -> None:
    ours, theirs = tekken
    assert ours.encode(text, add_special_tokens=False).ids == theirs.encode(text, disallowed_special=())
