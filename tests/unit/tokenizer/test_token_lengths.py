"""Least numbers of tokens, found without reading a text: never more than there are."""

from __future__ import annotations

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers

from exo_lite.tokenizer.byte_level import byte_characters
from exo_lite.tokenizer.token_lengths import NFC_SHRINKS_TO_ONE_IN, token_lengths
from exo_lite.tokenizer.tokenizers_backend import TokenizersBackend

ALPHABET = list(byte_characters().values())


def byte_level(missing: int = 0, unk_token: str | None = None) -> tokenizers.Tokenizer:
    """A vocabulary of bytes, some longer tokens, and one that swallows the white space around it."""
    characters = ALPHABET[missing:]
    words = [*characters, *(["ab"] if {"a", "b"} <= set(characters) else []), *([unk_token] if unk_token else [])]
    merges = [("a", "b")] if "ab" in words else []
    vocab = {word: index for index, word in enumerate(words)}
    library = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=merges, unk_token=unk_token, fuse_unk=True))
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.decoder = decoders.ByteLevel()
    library.add_special_tokens([AddedToken("<|end|>", lstrip=True, rstrip=True)])
    return library


def byte_fallback(num_bytes: int = 256) -> tokenizers.Tokenizer:
    words = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(num_bytes)), "▁", "a", "▁a"]
    vocab = {word: index for index, word in enumerate(words)}
    model = models.BPE(vocab=vocab, merges=[("▁", "a")], unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    library = tokenizers.Tokenizer(model)
    library.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    return library


LIBRARIES = {
    "all bytes": byte_level(),
    "some bytes unknown": byte_level(missing=100),
    "byte fallback": byte_fallback(),
}
TEXTS = st.text(st.one_of(st.characters(), st.sampled_from("ab \n\t▁é\u0301<|end|>"))) | st.lists(
    st.sampled_from(["<|end|>", "   ", "ab", "\u2003", "\x1c", "▁a", "\ud800", "가"])
).map("".join)


@pytest.mark.parametrize("kind", LIBRARIES)
@settings(deadline=None, max_examples=200)
@given(text=TEXTS)
def test_a_text_never_has_fewer_tokens(kind: str, text: str):
    lengths = token_lengths(LIBRARIES[kind])
    assert lengths is not None
    sound = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    assert lengths.min_tokens(text) <= len(TokenizersBackend(LIBRARIES[kind]).encode(sound))


def test_the_bound_is_of_use():
    lengths = token_lengths(byte_level())
    assert lengths is not None
    assert lengths.longest_bytes == len("<|end|>")
    assert lengths.min_tokens("a" * 7_000_000) == 1_000_000


def test_a_normalizer_that_joins_characters_weakens_the_bound():
    library = byte_level()
    library.normalizer = normalizers.NFC()
    lengths = token_lengths(library)
    assert lengths is not None
    assert lengths.longest_bytes == NFC_SHRINKS_TO_ONE_IN * len("<|end|>")
    text = "\u03b9\u0308\u0301" * 9 + "\u1fef" * 9
    assert lengths.min_tokens(text) <= len(TokenizersBackend(library).encode(text))


def _with(**parts: object) -> tokenizers.Tokenizer:
    library = byte_level()
    for name, part in parts.items():
        setattr(library, name, part)
    return library


@pytest.mark.parametrize(
    "library",
    [
        _with(normalizer=normalizers.NFKC()),
        _with(normalizer=normalizers.Replace("a", "")),
        _with(normalizer=normalizers.Sequence([normalizers.NFD(), normalizers.StripAccents()])),
        _with(pre_tokenizer=pre_tokenizers.Split(Regex("a+"), "removed")),
        _with(pre_tokenizer=pre_tokenizers.Sequence([pre_tokenizers.Whitespace(), pre_tokenizers.ByteLevel()])),
        byte_level(missing=10, unk_token="<unk>"),
        byte_fallback(num_bytes=200),
        tokenizers.Tokenizer(models.WordLevel({"<unk>": 0}, unk_token="<unk>")),
    ],
    ids=lambda library: type(library.model).__name__,
)
def test_where_a_token_may_stand_for_any_amount_of_text_nothing_is_said(library: tokenizers.Tokenizer):
    assert token_lengths(library) is None
