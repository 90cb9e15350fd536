"""The journal of one answer over all its attempts: a state machine without clock, input and output.

An attempt is one placement's try at an answer. The journal emits each token once and in order, whatever earlier
attempts still send. When an attempt ends early, it says whether the answer ends with it or goes on in another one.
"""

from __future__ import annotations

from dataclasses import dataclass

from exo_lite.domain.errors import ExoLiteError, NodeLost
from exo_lite.domain.ids import Epoch, ModelId, RequestId
from exo_lite.domain.request import AnswerRequest, GenerateRequest, Token


@dataclass(frozen=True, slots=True)
class Emit:
    """The token is the answer's next."""

    token: Token


@dataclass(frozen=True, slots=True)
class Drop:
    """Nothing new: it comes from an attempt that is over, or does not follow the last token."""


@dataclass(frozen=True, slots=True)
class Resubmit:
    """The answer may go on: `Journal.begin` makes the next attempt for the placement that takes it."""


@dataclass(frozen=True, slots=True)
class Fail:
    """The answer ends with this error."""

    error: ExoLiteError


class Journal:
    """One answer: what was asked, the tokens so far, and which attempt is under way."""

    def __init__(
        self, request_id: RequestId, model_id: ModelId, asked: AnswerRequest, *, max_attempts: int = 1
    ) -> None:
        self._request_id = request_id
        self._model_id = model_id
        self._asked = asked
        self._max_attempts = max_attempts
        self._num_attempts = 0
        self._attempt: int | None = None
        """The one under way, if any is."""
        self._token_ids: list[int] = []

    def begin(self, epoch: Epoch) -> GenerateRequest:
        """Make the next attempt, for the placement of an epoch. It goes on after the tokens so far."""
        self._attempt = self._num_attempts
        self._num_attempts += 1
        answered = tuple(self._token_ids)
        return GenerateRequest(self._request_id, self._model_id, epoch, self._attempt, self._asked, answered)

    def token(self, attempt: int, token: Token) -> Emit | Drop:
        """Take a token that an attempt brought. After the answer's last one, nothing is under way any more."""
        if attempt != self._attempt or token.index != len(self._token_ids):
            return Drop()
        self._token_ids.append(token.token_id)
        if token.finish_reason is not None:
            self._attempt = None
        return Emit(token)

    def ended(self, attempt: int, error: ExoLiteError | None) -> Resubmit | Fail | Drop:
        """Take the end of an attempt before the answer was complete: by an error, or without a word."""
        if attempt != self._attempt:
            return Drop()
        self._attempt = None
        cause = error or NodeLost(f"the answer of {self._model_id} ended without a reason: try again")
        goes_on = cause.is_recoverable and self._num_attempts < self._max_attempts
        return Resubmit() if goes_on else Fail(cause)
