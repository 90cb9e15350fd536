"""The backend on the tokenizers library: a `tokenizer.json`, or a tokenizer built from another file."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import tokenizers

from exo_lite.tokenizer.added_tokens import AddedTokens
from exo_lite.tokenizer.byte_level import byte_characters
from exo_lite.tokenizer.library_faults import LibraryFaults
from exo_lite.tokenizer.metaspace import SPACE
from exo_lite.tokenizer.token_lengths import TokenLengths, token_lengths
from exo_lite.tokenizer.whole_tokens import library_token

_FAULTS = LibraryFaults("the model's tokenizer")
_BYTES = {character: byte for byte, character in byte_characters().items()}


class TokenizersBackend:
    """Fits `Backend`."""

    def __init__(self, library: tokenizers.Tokenizer) -> None:
        self._library = library
        added = library.get_added_tokens_decoder()
        self.special_ids = frozenset(i for i, token in added.items() if token.special)
        self.whole_tokens = {i: token.content for i, token in added.items()}
        self._decoder = repr(library.decoder)
        self.byte_ids = _byte_fallback_ids(library)

    @property
    def vocab_size(self) -> int:
        return int(self._library.get_vocab_size(with_added_tokens=True))

    def token_to_id(self, token: str) -> int | None:
        return self._library.token_to_id(token)

    def id_to_token(self, token_id: int) -> str | None:
        return self._library.id_to_token(token_id)

    def leads_with(self, token_id: int) -> bool:
        """Ask the post-processor."""
        with _FAULTS:
            return list(self._library.encode("", add_special_tokens=True).ids[:1]) == [token_id]

    def encode(self, text: str) -> list[int]:
        with _FAULTS:
            [encoding] = self._library.encode_batch_fast([text], add_special_tokens=False)  # leaves the lock to others
            return list(encoding.ids)

    @cached_property
    def token_lengths(self) -> TokenLengths | None:
        with _FAULTS:
            return token_lengths(self._library)

    def token_bytes(self, token_id: int) -> bytes:
        token = self._library.id_to_token(token_id)
        if token is None:
            return b""
        if token_id in self.byte_ids:
            return bytes([int(token[3:5], 16)])
        return token.encode() if token_id in self.whole_tokens else _stands_for(token, self._decoder)

    def decode(self, ids: Sequence[int], skip_special: bool) -> str:
        with _FAULTS:
            return str(self._library.decode(list(ids), skip_special_tokens=skip_special))


def read_tokenizer_json(path: Path, added: AddedTokens) -> TokenizersBackend:
    """Raises InvalidModel. As in transformers, the ids of added tokens that are new follow those of the file."""
    with LibraryFaults(path.name):
        library = tokenizers.Tokenizer.from_file(str(path))
        library.no_truncation()
        library.no_padding()
        library.add_tokens([library_token(token) for token in added.by_id.values()])
        add_named_tokens(library, added)
        return TokenizersBackend(library)


def add_named_tokens(library: tokenizers.Tokenizer, added: AddedTokens) -> None:
    whole = library.get_added_tokens_decoder().values()
    plain = [token for token in whole if token.content in added.in_role and not token.special]
    for token in plain:
        token.special = True
    contents = {token.content for token in whole}
    missing = added.missing(contents, lambda content: library.token_to_id(content) is not None)
    library.add_tokens([*plain, *(library_token(token) for token in missing)])


def _stands_for(token: str, decoder: str) -> bytes:
    """The bytes of a token as the decoder, here in words, would read it."""
    if "ByteLevel" in decoder and all(character in _BYTES for character in token):
        return bytes(_BYTES[character] for character in token)
    return (token.replace(SPACE, " ") if SPACE in decoder else token).encode()


def _byte_fallback_ids(library: tokenizers.Tokenizer) -> frozenset[int]:
    """Ids of the tokens <0x00> to <0xFF>, where the decoder joins these to characters."""
    if "ByteFallback" not in repr(library.decoder):
        return frozenset()
    token_ids = (library.token_to_id(f"<0x{byte:02X}>") for byte in range(256))
    return frozenset(token_id for token_id in token_ids if token_id is not None)
