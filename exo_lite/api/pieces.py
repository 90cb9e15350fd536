"""Turns the tokens of one answer into pieces of its text."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from exo_lite.api.daemon_api import TextStream
from exo_lite.domain.request import FinishReason, Logprobs, Token


@dataclass(frozen=True, slots=True)
class ScoredToken:
    """A token of a text; `text_offset` counts the text's characters before it.

    Nobody knows how likely the first token of an echoed prompt is.
    """

    token_id: int
    logprobs: Logprobs | None
    text_offset: int


@dataclass(frozen=True, slots=True)
class Piece:
    """Text that is certain, and the tokens sampled since the last piece; `finish_reason` stands on the last one.

    `scored` are those tokens with log probabilities whose text has begun with this piece.
    """

    text: str
    token_ids: tuple[int, ...] = ()
    finish_reason: FinishReason | None = None
    scored: tuple[ScoredToken, ...] = ()
    prompt_logprobs: tuple[Logprobs, ...] = ()
    """Log probabilities of the prompt from its second token on, on the first piece, if asked for."""


@dataclass(slots=True)
class Collected:
    """One whole answer, from its pieces."""

    texts: list[str] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)
    scored: list[ScoredToken] = field(default_factory=list)
    prompt_logprobs: list[Logprobs] = field(default_factory=list)
    finish_reason: FinishReason | None = None

    def add(self, piece: Piece) -> None:
        self.texts.append(piece.text)
        self.token_ids.extend(piece.token_ids)
        self.scored.extend(piece.scored)
        self.prompt_logprobs.extend(piece.prompt_logprobs)
        self.finish_reason = piece.finish_reason

    @property
    def text(self) -> str:
        return "".join(self.texts)

    @property
    def mean_logprob(self) -> float:
        """The average over its tokens; an answer without any is the least likely."""
        logprobs = [one.logprobs.chosen for one in self.scored if one.logprobs is not None]
        return sum(logprobs) / len(logprobs) if logprobs else -math.inf


def nothing_of(token: Token) -> Piece:
    """Make the piece of an answer that nobody wants: only its prompt counts."""
    return Piece("", finish_reason="length", prompt_logprobs=token.prompt_logprobs)


class Transcript:
    """Writes one answer down, token by token. With `scores_end`, the token that ends it is among the scored ones."""

    def __init__(self, text: TextStream, stop_token_ids: frozenset[int], *, scores_end: bool = False) -> None:
        self._scores_end = scores_end
        self._prompt_logprobs: tuple[Logprobs, ...] = ()
        self._text = text
        self._stop_token_ids = stop_token_ids
        self._token_ids: list[int] = []
        self._scored: list[ScoredToken] = []
        self._num_chars = 0
        """Characters of the pieces so far."""

    def push(self, token: Token) -> Piece | None:
        """The piece that a token completes, if it does."""
        self._token_ids.append(token.token_id)
        self._prompt_logprobs += token.prompt_logprobs
        certain, is_cut = self._end(token) if token.token_id in self._stop_token_ids else self._decoded(token)
        if is_cut:
            return self._piece(certain, "stop", is_cut)
        if token.finish_reason is not None:
            certain += self._text.finish()
        return self._piece(certain, token.finish_reason) if certain or token.finish_reason else None

    def _end(self, token: Token) -> tuple[str, bool]:
        if self._scores_end and token.logprobs is not None:
            self._scored.append(ScoredToken(token.token_id, token.logprobs, self._text.num_chars))
        return "", False

    def _decoded(self, token: Token) -> tuple[str, bool]:
        """The text that a token makes certain, and whether a stop string ends the answer there."""
        if token.logprobs is not None:
            self._scored.append(ScoredToken(token.token_id, token.logprobs, self._text.num_chars))
        return self._text.push(token.token_id)

    def _piece(self, text: str, finish_reason: FinishReason | None, is_cut: bool = False) -> Piece:
        self._num_chars += len(text)
        is_whole = finish_reason is not None and not is_cut
        shown = [one for one in self._scored if is_whole or one.text_offset < self._num_chars]
        piece = Piece(text, tuple(self._token_ids), finish_reason, tuple(shown), self._prompt_logprobs)
        self._prompt_logprobs = ()
        self._scored = self._scored[len(shown) :]
        self._token_ids = []
        return piece
