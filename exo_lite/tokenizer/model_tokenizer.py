"""Text to token ids and back, with a model's special tokens, whatever kind of file the vocabulary comes from."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Protocol

from exo_lite.tokenizer.special_tokens import SpecialTokens
from exo_lite.tokenizer.token_lengths import TokenLengths

_SURROGATE = re.compile("[\ud800-\udfff]")


class Tokenizer(Protocol):
    """The tokenizer as the rest of the program uses it."""

    @property
    def vocab_size(self) -> int:
        """Number of tokens, added ones included."""

    @property
    def bos_token(self) -> str | None: ...

    @property
    def eos_token(self) -> str | None: ...

    @property
    def stop_token_ids(self) -> frozenset[int]:
        """Every id that ends an answer."""

    def encode(self, text: str, *, add_bos: bool = True) -> list[int]: ...

    def decode(self, ids: Sequence[int], skip_special: bool = True) -> str: ...

    def is_skipped(self, token_id: int) -> bool:
        """Say whether decoding with `skip_special` leaves this id out: a special token, or an unused id."""

    def is_byte(self, token_id: int) -> bool:
        """Say whether this id stands for one byte whose meaning depends on the bytes around it."""


class Backend(Protocol):
    """The library behind a vocabulary. It has no mutable state that callers can see."""

    @property
    def vocab_size(self) -> int: ...

    @property
    def special_ids(self) -> frozenset[int]:
        """Ids that are found in text whole, and that answers leave out."""

    @property
    def whole_tokens(self) -> Mapping[int, str]:
        """Tokens by id that merging never makes of text: control tokens and added ones, special or not."""

    @property
    def byte_ids(self) -> frozenset[int]:
        """Ids of single bytes whose meaning shows only at the end of a run of them."""

    def token_to_id(self, token: str) -> int | None: ...

    def id_to_token(self, token_id: int) -> str | None: ...

    def leads_with(self, token_id: int) -> bool:
        """Say whether this BOS token starts every text, if the model's files do not say."""

    def encode(self, text: str) -> list[int]:
        """Ids of valid Unicode, nothing added; special tokens written out become theirs."""

    def token_bytes(self, token_id: int) -> bytes:
        """Return a token's UTF-8, as in the middle of a text: perhaps part of a character, b"" for no token."""

    @property
    def token_lengths(self) -> TokenLengths | None:
        """How much text one token can stand for; None for any amount."""

    def decode(self, ids: Sequence[int], skip_special: bool) -> str:
        """Bytes that are not UTF-8 become U+FFFD, ids beyond the vocabulary nothing."""


class ModelTokenizer:
    """A vocabulary and its special tokens. Fits `Tokenizer`; free of mutable state."""

    def __init__(self, backend: Backend, special: SpecialTokens, *, adds_bos: bool) -> None:
        self._backend = backend
        self._adds_bos = adds_bos
        self.special = special

    @property
    def vocab_size(self) -> int:
        return self._backend.vocab_size

    @property
    def bos_token(self) -> str | None:
        return self.special.bos_token

    @property
    def eos_token(self) -> str | None:
        return self.special.eos_token

    @property
    def stop_token_ids(self) -> frozenset[int]:
        return self.special.stop_token_ids

    def encode(self, text: str, *, add_bos: bool = True) -> list[int]:
        """Token ids, led by the BOS token exactly once where the model wants one and `add_bos` allows it.

        Special tokens written out in the text become their ids. Lone surrogates become U+FFFD.
        """
        token_ids = self._backend.encode(_without_surrogates(text))
        bos_token_id = self.special.bos_token_id
        if not add_bos or not self._adds_bos or bos_token_id is None or token_ids[:1] == [bos_token_id]:
            return token_ids
        return [bos_token_id, *token_ids]

    def min_tokens(self, text: str) -> int:
        """`encode` gives no fewer than these, and this takes next to no time; 0 where nothing can be said."""
        lengths = self._backend.token_lengths
        return 0 if lengths is None else lengths.min_tokens(text)

    def decode(self, ids: Sequence[int], skip_special: bool = True) -> str:
        """The text of ids. Bytes that are not UTF-8 become U+FFFD, ids beyond the vocabulary nothing."""
        return self._backend.decode(ids, skip_special)

    def token_bytes(self, token_id: int) -> bytes:
        """Return a token's UTF-8, as in the middle of a text: perhaps part of a character, b"" for no token."""
        return self._backend.token_bytes(token_id)

    def is_skipped(self, token_id: int) -> bool:
        return token_id in self._backend.special_ids or self._backend.id_to_token(token_id) is None

    def is_byte(self, token_id: int) -> bool:
        return token_id in self._backend.byte_ids


def _without_surrogates(text: str) -> str:
    """Surrogate pairs joined to their character, lone surrogates replaced, so that the text is valid Unicode."""
    if not _SURROGATE.search(text):
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
