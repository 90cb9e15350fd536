"""The text of an answer, and how much of it has been decoded while some is held back."""

from __future__ import annotations

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models

from exo_lite.node.served_text import AnswerText
from exo_lite.tokenizer.byte_level import byte_characters
from exo_lite.tokenizer.model_tokenizer import ModelTokenizer
from exo_lite.tokenizer.special_tokens import SpecialTokens
from exo_lite.tokenizer.tokenizers_backend import TokenizersBackend

SPECIAL = 256


@pytest.fixture(scope="module")
def tokenizer() -> ModelTokenizer:
    """Every byte is a token, the one behind them is special."""
    library = Tokenizer(models.BPE(vocab={one: byte for byte, one in byte_characters().items()}, merges=[]))
    library.decoder = decoders.ByteLevel()
    library.add_special_tokens([AddedToken("<end>", special=True)])
    return ModelTokenizer(
        TokenizersBackend(library), SpecialTokens(None, None, None, None, None, frozenset()), adds_bos=False
    )


def test_characters_count_once_they_are_whole_even_while_held_back(tokenizer: ModelTokenizer) -> None:
    text = AnswerText(tokenizer, ["stop"])
    counts = []
    for token_id in [*"aé".encode(), SPECIAL, *b"st"]:
        text.push(token_id)
        counts.append(text.num_chars)
    assert counts == [1, 1, 2, 2, 3, 4]
    assert text.finish() == "st"


def test_a_stop_string_cuts_the_text_and_not_the_count(tokenizer: ModelTokenizer) -> None:
    text = AnswerText(tokenizer, ["op"])
    pieces = [text.push(token_id) for token_id in b"stop"]
    assert ("".join(piece for piece, _ in pieces), pieces[-1][1], text.num_chars) == ("st", True, 4)


def test_stop_strings_count_from_the_least_length_on(tokenizer: ModelTokenizer) -> None:
    text = AnswerText(tokenizer, ["op"], min_tokens=4)
    pieces = [text.push(token_id) for token_id in b"stop stop"]
    assert ("".join(piece for piece, _ in pieces), pieces[-1][1]) == ("stop st", True)


def test_special_tokens_are_written_out_where_they_are_asked_for(tokenizer: ModelTokenizer) -> None:
    for skip_special, expected in ((True, "ab"), (False, "a<end>b")):
        text = AnswerText(tokenizer, [], skip_special=skip_special)
        assert (
            "".join(text.push(token_id)[0] for token_id in (*b"a", SPECIAL, 9_999, *b"b")) + text.finish() == expected
        )
