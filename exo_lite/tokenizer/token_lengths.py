"""How much text one token can stand for: what tells a prompt that is too long before it is read."""

from __future__ import annotations

import re
from dataclasses import dataclass

import tokenizers
from tokenizers import models

from exo_lite.tokenizer.byte_level import byte_characters

TELLING_TEXT = "a  b\u200b\u00ad\x01 e\u0301 \u2460\uff71\ufb01 \U0001f600"
"""Normalizers that join, replace or drop anything change this: two spaces, an invisible and a control character,
an accent by itself, compatibility forms."""
NFC_SHRINKS_TO_ONE_IN = 9
"""Its characters decompose to three times their bytes at most (Unicode Standard Annex 15), and those may have been
written in three times the bytes."""

_ASCII_SPACE = b" \t\n\r\v\f\x1c\x1d\x1e\x1f"
_BYTES = {character: byte for byte, character in byte_characters().items()}
_SOUND_STEPS = frozenset({"Sequence", "ByteLevel", "Split", "Digits", "Metaspace", "Regex", "String"})
_SPACE_TO_METASPACE = re.compile(
    r'(Sequence\(normalizers=\[)?(Prepend\(prepend="▁"\)(, )?)?'
    r'(Replace\(pattern=String\(" "\), content="▁"\))?(\]\))?'
)


@dataclass(frozen=True, slots=True)
class TokenLengths:
    """The most bytes of text, white space not counted, that one token can stand for, and bytes that have no token."""

    longest_bytes: int
    unknown_bytes: bytes = b""

    def min_tokens(self, text: str) -> int:
        """A text has no fewer tokens than these."""
        if not text.isascii():
            text = "".join(text.split())  # some added tokens swallow the white space around them, of any kind
        content = text.encode(errors="ignore")  # surrogates may come in pairs
        return -(-len(content.translate(None, _ASCII_SPACE + self.unknown_bytes)) // self.longest_bytes)


def token_lengths(library: tokenizers.Tokenizer) -> TokenLengths | None:
    """None where a token may stand for any amount of text.

    That is so where text is dropped on the way, and where letters without a token become one together.
    """
    shrinks = _normalizer_shrinks_to_one_in(repr(library.normalizer))
    model = library.model
    if shrinks is None or not isinstance(model, models.BPE) or not _keeps_all(repr(library.pre_tokenizer)):
        return None
    vocab = library.get_vocab(with_added_tokens=True)
    added = {token.content for token in library.get_added_tokens_decoder().values()}
    is_byte_level = "ByteLevel" in repr(library.pre_tokenizer)
    num_bytes = (_num_bytes(token, is_byte_level=is_byte_level and token not in added) for token in vocab)
    longest_bytes = shrinks * max(1, *num_bytes)
    if is_byte_level:
        unknown = bytes(byte for byte, character in byte_characters().items() if character not in vocab)
        return None if unknown and model.unk_token else TokenLengths(longest_bytes, unknown)
    has_all_bytes = model.byte_fallback and all(f"<0x{byte:02X}>" in vocab for byte in range(256))
    return TokenLengths(longest_bytes) if has_all_bytes else None


def _num_bytes(token: str, *, is_byte_level: bool) -> int:
    """White space not counted."""
    try:
        content = bytes(_BYTES[character] for character in token) if is_byte_level else token.encode()
    except KeyError:
        content = token.encode()  # a token of something else than bytes
    return len(content.translate(None, _ASCII_SPACE))


def _normalizer_shrinks_to_one_in(described: str) -> int | None:
    """How many bytes may become one; None for any number. Prefixes and spaces written as ▁ make no text shorter."""
    if described == "NFC()":
        return NFC_SHRINKS_TO_ONE_IN
    return 1 if described == "None" or _SPACE_TO_METASPACE.fullmatch(described) else None


def _keeps_all(pre_tokenizer: str) -> bool:
    """Say whether a pre-tokenizer, given by its description, keeps all of a text."""
    if "removed" in pre_tokenizer.lower():
        return False
    return pre_tokenizer == "None" or set(re.findall(r"\b([A-Z][A-Za-z]+)\(", pre_tokenizer)) <= _SOUND_STEPS
