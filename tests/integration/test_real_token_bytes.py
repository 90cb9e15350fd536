"""The bytes of real vocabularies' tokens: together they are the text, whatever kind of file they come from."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from exo_lite.tokenizer.tokenizer_files import load_tokenizer

TEXTS = ["The capital of France is", "  def f(x):\n\treturn x\r\n", "日本語 👩‍👩‍👧 é ﷽ \x00\x7f"]


def joined(folder: Path, tokenizer_model: Path, text: str) -> str:
    """The bytes of a text's tokens, one behind the other."""
    shutil.copy(tokenizer_model, folder / "tokenizer.model")
    tokenizer = load_tokenizer(folder)
    return b"".join(map(tokenizer.token_bytes, tokenizer.encode(text, add_bos=False))).decode()


@pytest.mark.parametrize("text", TEXTS)
def test_ranks_make_up_the_text(tmp_path: Path, llama3_tokenizer_model: Path, text: str) -> None:
    assert joined(tmp_path, llama3_tokenizer_model, text) == text


@pytest.mark.parametrize("text", TEXTS)
def test_pieces_make_up_the_text_behind_its_space(
    tmp_path: Path, sentencepiece_tokenizer_model: Path, text: str
) -> None:
    assert joined(tmp_path, sentencepiece_tokenizer_model, text) == f" {text}"
