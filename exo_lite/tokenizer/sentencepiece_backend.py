"""A bare SentencePiece `tokenizer.model`, as Llama 1 and 2 and their descendants have it, run by its own library."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import sentencepiece

from exo_lite.domain.errors import InvalidModel
from exo_lite.tokenizer.added_tokens import AddedToken

SPACE = "▁"


class SentencePieceBackend:
    """Fits `Backend`.

    Text between special tokens is encoded by itself, each stretch led by the space that SentencePiece puts in front of
    a text, as Meta's own code does with the turns of a chat. Decoding takes this space away again.
    """

    def __init__(self, content: bytes, added: Mapping[int, AddedToken]) -> None:
        """Raises InvalidModel."""
        self._processor = _processor(content)
        self._pieces = _pieces(self._processor)
        self._num_pieces = len(self._pieces)
        self._has_prefix = self._processor.normalize("a").startswith(SPACE)
        own = {
            i: AddedToken(self._processor.id_to_piece(i), is_special=True)
            for i in range(self._num_pieces)
            if self._processor.is_control(i) or self._processor.is_unknown(i)
        }
        self._added = {**own, **added}
        self._added_ids = {token.content: token_id for token_id, token in self._added.items()}
        self.special_ids = frozenset(token_id for token_id, token in self._added.items() if token.is_special)
        added_contents = {i: token.content for i, token in self._added.items()}
        self.whole_tokens = _user_defined(self._processor) | added_contents
        self.byte_ids = frozenset[int]()  # decoded one by one, so that characters are out as soon as they are whole
        longest_first = sorted(self._added_ids, key=len, reverse=True)
        self._cut = re.compile(f"({'|'.join(map(re.escape, longest_first))})")

    @property
    def vocab_size(self) -> int:
        return max(self._num_pieces, *(token_id + 1 for token_id in self._added))

    @property
    def special_tokens(self) -> dict[str, str]:
        """`bos_token`, `eos_token` and `unk_token`, as far as the file has them."""
        ids = {"bos": self._processor.bos_id(), "eos": self._processor.eos_id(), "unk": self._processor.unk_id()}
        tokens = {f"{kind}_token": self.id_to_token(token_id) for kind, token_id in ids.items()}
        return {key: token for key, token in tokens.items() if token is not None}

    def token_to_id(self, token: str) -> int | None:
        if token in self._added_ids:
            return self._added_ids[token]
        token_id = int(self._processor.piece_to_id(token))
        return token_id if self.id_to_token(token_id) == token else None  # the library gives <unk> for what it has not

    def id_to_token(self, token_id: int) -> str | None:
        if token_id in self._added:
            return self._added[token_id].content
        return str(self._processor.id_to_piece(token_id)) if 0 <= token_id < self._num_pieces else None

    def leads_with(self, token_id: int) -> bool:
        """As in every model that came with such a file."""
        return True

    def encode(self, text: str) -> list[int]:
        token_ids: list[int] = []
        for index, part in enumerate(self._cut.split(text)):
            if index % 2:
                token_ids.append(self._added_ids[part])
            elif part:
                token_ids.extend(self._processor.encode(part))
        return token_ids

    def token_bytes(self, token_id: int) -> bytes:
        if token_id in self._added:
            return self._added[token_id].content.encode()
        return self._pieces[token_id] if 0 <= token_id < self._num_pieces else b""

    def decode(self, ids: Sequence[int], skip_special: bool) -> str:
        """UTF-8 as Unicode recommends: one U+FFFD for as many bytes as begin a character that does not go on."""
        text = bytearray()
        is_start = self._has_prefix
        for token_id in ids:
            if token_id in self._added:
                if not (skip_special and token_id in self.special_ids):
                    text += self._added[token_id].content.encode()
                    is_start = self._has_prefix
            elif 0 <= token_id < self._num_pieces:
                piece = self._pieces[token_id]
                text += piece[1:] if is_start and piece.startswith(b" ") else piece
                is_start = False
        return text.decode("utf-8", "replace")


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
    """What each piece stands for in a text: <0x0A> one byte, others their characters."""
    pieces = [processor.id_to_piece(i) for i in range(processor.get_piece_size())]
    return [
        bytes([int(piece[3:5], 16)]) if processor.is_byte(i) else piece.replace(SPACE, " ").encode()
        for i, piece in enumerate(pieces)
    ]
