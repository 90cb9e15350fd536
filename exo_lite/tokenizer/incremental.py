"""Text from tokens that come one at a time."""

from __future__ import annotations

from exo_lite.tokenizer.model_tokenizer import Tokenizer

REPLACEMENT = "\ufffd"


class IncrementalDetokenizer:
    """Emits only text that no later token can change; all pieces together are what decoding at once gives.

    Tokens are decoded behind those of the last piece, since a decoder may treat the start of a text in its own way
    (SentencePiece drops a space there). Special tokens leave no trace unless they are to be written out.
    """

    def __init__(self, tokenizer: Tokenizer, *, skip_special: bool = True) -> None:
        self._tokenizer = tokenizer
        self._skip_special = skip_special
        self._context: list[int] = []
        self._context_text = ""
        self._pending: list[int] = []
        self._num_emitted = 0
        """Characters of the pending tokens' text that are out already."""

    def push(self, token_id: int) -> str:
        """The text that has become certain with this token, often empty."""
        if self._skip_special and self._tokenizer.is_skipped(token_id):
            return ""
        self._pending.append(token_id)
        if self._tokenizer.is_byte(token_id):
            return ""  # whether a run of byte tokens is UTF-8 or not shows only at its end
        text = self._pending_text()
        if text.endswith(REPLACEMENT):  # perhaps the first bytes of a character whose rest is yet to come
            return self._emit(text[:-1])
        piece = self._emit(text)
        self._context, self._pending, self._num_emitted = self._pending, [], 0
        self._context_text = self._tokenizer.decode(self._context, self._skip_special)
        return piece

    def finish(self) -> str:
        """Return the text held back so far; half a character becomes U+FFFD."""
        return self._emit(self._pending_text()) if self._pending else ""

    def _pending_text(self) -> str:
        return self._tokenizer.decode(self._context + self._pending, self._skip_special)[len(self._context_text) :]

    def _emit(self, certain: str) -> str:
        piece = certain[self._num_emitted :]
        self._num_emitted += len(piece)
        return piece
