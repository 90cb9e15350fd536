"""Answers to requests that entered here: each waits for its model, and is told once, however many attempts it takes."""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from dataclasses import replace

from exo_lite.domain.errors import ExoLiteError, InvalidRequest
from exo_lite.domain.ids import ModelId, RequestId
from exo_lite.domain.placement import Instance
from exo_lite.domain.request import MAX_PROMPT_LOGPROBS, AnswerRequest, Sampling, Token
from exo_lite.node.attempts import Attempts
from exo_lite.node.journal import Emit, Fail, Journal

Ready = Callable[[ModelId], Awaitable[Instance]]
"""A model, once it is ready. Raises NotReady, and what loading it raises."""

MAX_ATTEMPTS = 1


class Answers:
    """Drives a journal for each answer."""

    def __init__(self, attempts: Attempts, ready: Ready, *, max_attempts: int = MAX_ATTEMPTS) -> None:
        self._attempts = attempts
        self._ready = ready
        self._max_attempts = max_attempts

    async def answer(self, model_id: ModelId, asked: AnswerRequest) -> AsyncGenerator[Token, None]:
        """The answer's tokens in order. Closing cancels everywhere.

        Raises InvalidRequest, what `ready` and the driver raise, or NodeLost.
        """
        instance = await self._ready(model_id)  # again: it may have been placed again while the prompt was read
        asked = _fitted(asked, instance.spec.vocab_size)
        journal = Journal(RequestId(secrets.token_hex(12)), model_id, asked, max_attempts=self._max_attempts)
        while True:
            request, error = journal.begin(instance.epoch), None
            try:
                async with self._attempts.begin(instance, request) as attempt:
                    while (token := await attempt.next()) is not None:
                        outcome = journal.token(request.attempt, token)
                        if isinstance(outcome, Emit):
                            yield outcome.token
                            if token.finish_reason is not None:
                                return
            except ExoLiteError as raised:
                error = raised
            end = journal.ended(request.attempt, error)
            if isinstance(end, Fail):
                raise end.error
            instance = await self._ready(model_id)


def _fitted(asked: AnswerRequest, vocab_size: int) -> AnswerRequest:
    """The request as a model's vocabulary allows it. Raises InvalidRequest, before any hop."""
    sampling = asked.sampling
    _check_token_ids(asked.token_ids, vocab_size, param="prompt")
    _check_token_ids([token_id for token_id, _ in sampling.logit_bias], vocab_size, param="logit_bias")
    _check_prompt_logprobs(len(asked.token_ids), sampling)
    late = tuple(token_id for token_id in sampling.late_token_ids if token_id < vocab_size)  # padding may lie beyond
    return asked if late == sampling.late_token_ids else replace(asked, sampling=replace(sampling, late_token_ids=late))


def _check_token_ids(token_ids: Sequence[int], vocab_size: int, *, param: str) -> None:
    unknown = next((token_id for token_id in token_ids if not 0 <= token_id < vocab_size), None)
    if unknown is not None:
        raise InvalidRequest(f"token id {unknown} is not within 0..{vocab_size - 1}", param=param)


def _check_prompt_logprobs(num_prompt_tokens: int, sampling: Sampling) -> None:
    """Raises InvalidRequest for more than one message holds."""
    num_logprobs = num_prompt_tokens * (1 + (sampling.logprobs or 0))
    if sampling.prompt_logprobs and num_logprobs > MAX_PROMPT_LOGPROBS:
        raise InvalidRequest(
            f"{num_prompt_tokens} prompt tokens with {sampling.logprobs} likely ones beside each come to "
            f"{num_logprobs} log probabilities, more than {MAX_PROMPT_LOGPROBS}: ask for fewer, or shorten the prompt",
            param="logprobs",
        )
