"""A bare SentencePiece `tokenizer.model`, as Llama 1 and 2 and their descendants have it, run by its own library."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Literal

import sentencepiece

from exo_lite.domain.errors import InvalidModel
from exo_lite.tokenizer.added_tokens import AddedToken, AddedTokens, check_distinct
from exo_lite.tokenizer.metaspace import SPACE
from exo_lite.tokenizer.token_lengths import TELLING_TEXT, TokenLengths
from exo_lite.tokenizer.whole_tokens import WholeTokens

Prefixed = Literal["every", "first", "none"]
"""The parts of a text between added tokens that get a leading space, as SentencePiece gives to a whole text."""

_NO_PREFIX = b"\x1a\x02\x18\x00"
"""`normalizer_spec { add_dummy_prefix: false }` of SentencePiece's protobuf; behind a message it overrules its own."""


class SentencePieceBackend:
    """Fits `Backend`.

    Text between added tokens is encoded by itself. Meta's own code leads the turns of a chat by a space, as if each was
    a text: `every` stretch. Decoding takes these spaces away again.
    """

    def __init__(self, content: bytes, added: AddedTokens, *, prefixed: Prefixed = "every") -> None:
        """Raises InvalidModel."""
        self._processor = _processor(content)
        self._without_prefix = self._processor if prefixed == "every" else _processor(content + _NO_PREFIX)
        self._pieces = _pieces(self._processor)
        self._num_pieces = len(self._pieces)
        self._strips_first = prefixed != "none" and self._processor.normalize("a").startswith(SPACE)
        self._strips_every = prefixed == "every" and self._strips_first
        self._prefixes_first = prefixed != "none"
        self._added = self._all_added(added)
        self._added_ids = {token.content: token_id for token_id, token in self._added.items()}
        self.special_ids = frozenset(token_id for token_id, token in self._added.items() if token.is_special)
        added_contents = {i: token.content for i, token in self._added.items()}
        self.whole_tokens = _user_defined(self._processor) | added_contents
        self.byte_ids = frozenset[int]()  # decoded one by one, so that characters are out as soon as they are whole
        self._whole = WholeTokens(self._added)

    @property
    def vocab_size(self) -> int:
        return self._size(self._added)

    @property
    def special_tokens(self) -> dict[str, str]:
        """`bos_token`, `eos_token` and `unk_token`, as far as the file has them."""
        ids = {"bos": self._processor.bos_id(), "eos": self._processor.eos_id(), "unk": self._processor.unk_id()}
        tokens = {f"{kind}_token": self.id_to_token(token_id) for kind, token_id in ids.items()}
        return {key: token for key, token in tokens.items() if token is not None}

    def token_to_id(self, token: str) -> int | None:
        return self._added_ids[token] if token in self._added_ids else self._piece_id(token)

    def id_to_token(self, token_id: int) -> str | None:
        if token_id in self._added:
            return self._added[token_id].content
        return str(self._processor.id_to_piece(token_id)) if 0 <= token_id < self._num_pieces else None

    def leads_with(self, token_id: int) -> bool:
        """Return True, as for every model that came with such a file."""
        return True

    def encode(self, text: str) -> list[int]:
        token_ids: list[int] = []
        for token_id, part in self._whole.cut(text):
            if token_id is not None:
                token_ids.append(token_id)
            elif part.start == 0 and self._prefixes_first:
                token_ids.extend(self._processor.encode(text[part]))
            else:
                token_ids.extend(self._without_prefix.encode(text[part]))
        return token_ids

    @cached_property
    def token_lengths(self) -> TokenLengths | None:
        """None where the file's normalizer changes text, or letters without a piece join to one unknown token."""
        changes = self._processor.normalize(TELLING_TEXT).replace(SPACE, " ").strip(" ") != TELLING_TEXT
        num_bytes = sum(self._processor.is_byte(i) for i in range(self._num_pieces))
        if changes or num_bytes < 256:
            return None
        pieces = (self._processor.id_to_piece(i) for i in range(self._num_pieces))
        return TokenLengths(max(len(content.encode()) for content in (*pieces, *self._added_ids)))

    def token_bytes(self, token_id: int) -> bytes:
        if token_id in self._added:
            return self._added[token_id].content.encode()
        return self._pieces[token_id] if 0 <= token_id < self._num_pieces else b""

    def decode(self, ids: Sequence[int], skip_special: bool) -> str:
        """UTF-8 as Unicode recommends: one U+FFFD for as many bytes as begin a character that does not go on."""
        text = bytearray()
        is_start = self._strips_first
        for token_id in ids:
            if token_id in self._added:
                if not (skip_special and token_id in self.special_ids):
                    text += self._added[token_id].content.encode()
                    is_start = self._strips_every
            elif 0 <= token_id < self._num_pieces:
                piece = self._pieces[token_id]
                text += piece[1:] if is_start and piece.startswith(b" ") else piece
                is_start = False
        return text.decode("utf-8", "replace")

    def _piece_id(self, token: str) -> int | None:
        token_id = int(self._processor.piece_to_id(token))  # the library gives <unk> for what it has not
        return token_id if self._processor.id_to_piece(token_id) == token else None

    def _all_added(self, added: AddedTokens) -> dict[int, AddedToken]:
        own = {
            i: AddedToken(self._processor.id_to_piece(i), is_special=True)
            for i in range(self._num_pieces)
            if self._processor.is_control(i) or self._processor.is_unknown(i)
        }
        check_distinct(added.by_id)
        tokens = {**own, **added.by_id}
        contents = {token.content for token in tokens.values()}
        for token in added.missing(contents, lambda content: self._piece_id(content) is not None):
            token_id = self._piece_id(token.content)
            tokens[self._size(tokens) if token_id is None else token_id] = token
        return tokens

    def _size(self, added: Mapping[int, AddedToken]) -> int:
        return max(self._num_pieces, *(token_id + 1 for token_id in added))


def _processor(content: bytes) -> sentencepiece.SentencePieceProcessor:
    processor = sentencepiece.SentencePieceProcessor()
    try:
        processor.LoadFromSerializedProto(content)
    except RuntimeError as error:  # what the library raises for every fault of a file
        raise InvalidModel(
            "tokenizer.model is neither a SentencePiece nor a tiktoken file, or it is damaged: fetch it again"
        ) from error
    return processor


def _user_defined(processor: sentencepiece.SentencePieceProcessor) -> dict[int, str]:
    """Pieces that training did not score but was given. Perhaps also its very first merge, which scores 0 too."""
    return {
        i: processor.id_to_piece(i)
        for i in range(processor.get_piece_size())
        if processor.get_score(i) == 0 and not (processor.is_byte(i) or processor.is_unused(i))
    }


def _pieces(processor: sentencepiece.SentencePieceProcessor) -> list[bytes]:
    """Return the bytes of each piece: one byte for <0x0A>, the characters for others."""
    pieces = [processor.id_to_piece(i) for i in range(processor.get_piece_size())]
    return [
        bytes([int(piece[3:5], 16)]) if processor.is_byte(i) else piece.replace(SPACE, " ").encode()
        for i, piece in enumerate(pieces)
    ]
