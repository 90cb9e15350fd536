"""A request for tokens, and the tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from exo_lite.domain.errors import InvalidRequest
from exo_lite.domain.ids import Epoch, ModelId, RequestId

FinishReason = Literal["stop", "length"]


MAX_TOP_LOGPROBS = 20
MAX_LOGIT_BIASES = 1024
MAX_PROMPT_LOGPROBS = 2**17
"""The limit for one prompt, with the likely tokens beside its own counted: they travel in one message."""
MAX_MIN_TOKENS = 2**31 - 1
MAX_LATE_TOKENS = 512
MAX_TOP_K = 2**32 - 1
"""The largest value on the wire."""

_RANGES = {
    "temperature": (0.0, 2.0),
    "top_p": (0.0, 1.0),
    "min_p": (0.0, 1.0),
    "repetition_penalty": (0.01, 100.0),
    "presence_penalty": (-2.0, 2.0),
    "frequency_penalty": (-2.0, 2.0),
}
"""Least and greatest value, both allowed."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next token is drawn. What a field's default says is off.

    In this order: `late_token_ids` are out of the question at first; `logit_bias` adds to scores; `repetition_penalty`
    divides positive and multiplies other scores of tokens in prompt or answer; `presence_penalty` and
    `frequency_penalty` take from those in the answer, once and per occurrence; `temperature` divides all (0 is greedy);
    `top_k`, `top_p` (of what top_k left) and `min_p` (of the greatest probability) drop the less likely; the likeliest
    always stays, so that `top_p` 0 is as good as greedy.
    `seed` fixes every draw: token `index` of a request uses a number hashed from (seed, index) alone.
    Raises InvalidRequest.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    """(token id, from -100 to 100), each id once."""
    logprobs: int | None = None
    """How many likely tokens are reported beside each sampled one with their log probabilities; None: not even it."""
    min_tokens: int = 0
    late_token_ids: tuple[int, ...] = ()
    """Tokens that would end the answer: never drawn among its first `min_tokens` tokens."""
    prompt_logprobs: bool = False
    """The prompt's tokens after the first are reported as `logprobs` says, with the first token of the answer."""

    def __post_init__(self) -> None:
        for name, (least, greatest) in _RANGES.items():
            value = getattr(self, name)
            if not least <= value <= greatest:
                raise InvalidRequest(f"{name} must lie between {least:g} and {greatest:g}, not {value}", param=name)
        if not 0 <= self.top_k <= MAX_TOP_K:
            raise InvalidRequest(f"top_k must be 0 (off) to {MAX_TOP_K}, not {self.top_k}", param="top_k")
        if not 0 <= self.seed < 2**64:
            raise InvalidRequest(f"seed must be a whole number from 0 to 2**64 - 1, not {self.seed}", param="seed")
        if self.logprobs is not None and not 0 <= self.logprobs <= MAX_TOP_LOGPROBS:
            raise InvalidRequest(f"logprobs must be 0 to {MAX_TOP_LOGPROBS}, not {self.logprobs}", param="logprobs")
        if self.prompt_logprobs and self.logprobs is None:
            raise InvalidRequest("prompt_logprobs needs logprobs beside it", param="logprobs")
        if not 0 <= self.min_tokens <= MAX_MIN_TOKENS:
            message = f"min_tokens must be 0 to {MAX_MIN_TOKENS}, not {self.min_tokens}"
            raise InvalidRequest(message, param="min_tokens")
        if len(self.late_token_ids) > MAX_LATE_TOKENS:
            message = f"up to {MAX_LATE_TOKENS} tokens may end an answer, not {len(self.late_token_ids)}"
            raise InvalidRequest(message, param="stop_token_ids")
        _check_logit_bias(self.logit_bias)

    @property
    def is_greedy(self) -> bool:
        return self.temperature == 0.0

    @property
    def needs_prompt(self) -> bool:
        """True if sampling looks at the prompt's tokens, as penalties do."""
        return self.repetition_penalty != 1.0

    @property
    def changes_scores(self) -> bool:
        penalizes = bool(self.presence_penalty or self.frequency_penalty)
        return self.needs_prompt or penalizes or bool(self.logit_bias or (self.min_tokens and self.late_token_ids))


def _check_logit_bias(pairs: tuple[tuple[int, float], ...]) -> None:
    if not pairs:
        return
    if len(pairs) > MAX_LOGIT_BIASES:
        raise InvalidRequest(f"logit_bias takes up to {MAX_LOGIT_BIASES} tokens, not {len(pairs)}", param="logit_bias")
    if len({token_id for token_id, _ in pairs}) < len(pairs):
        raise InvalidRequest("logit_bias names a token twice: give each one value", param="logit_bias")
    for token_id, bias in pairs:
        if token_id < 0 or not -100.0 <= bias <= 100.0:
            message = f"logit_bias takes token ids from 0 and values from -100 to 100, not {token_id}: {bias}"
            raise InvalidRequest(message, param="logit_bias")


@dataclass(frozen=True, slots=True)
class Logprobs:
    """Natural logarithms of the model's own probabilities: before bias, penalties and temperature."""

    chosen: float
    """The logarithm for the sampled token."""
    top: tuple[tuple[int, float], ...] = ()
    """(token id, logarithm) of the likeliest tokens, those first; the sampled one need not be among them."""


@dataclass(frozen=True, slots=True)
class AnswerRequest:
    """A prompt and how to answer it, whichever placement of the model does so."""

    token_ids: tuple[int, ...]
    """The prompt."""
    max_tokens: int
    """The limit for the whole answer, what earlier attempts brought included."""
    sampling: Sampling
    stop_token_ids: frozenset[int] = frozenset()
    """Sampling one of these ends the answer; the token itself is still reported."""
    tenant: str = ""
    """The owner of a request, as an opaque name: tenants get equal shares of a busy model."""
    timeout_s: float | None = None
    """The time for the whole answer, counted from the request's arrival at the driver."""


@dataclass(frozen=True, slots=True)
class GenerateRequest:
    """One attempt at an answer, by one placement. `attempt` counts the placements that the answer has lived through."""

    request_id: RequestId
    model_id: ModelId
    epoch: Epoch
    attempt: int
    asked: AnswerRequest
    answer_token_ids: tuple[int, ...] = ()
    """The tokens of earlier attempts: the answer goes on after them."""

    @property
    def num_tokens(self) -> int:
        """Tokens that it may come to, prompt and answer: what is reserved for it."""
        return len(self.asked.token_ids) + self.asked.max_tokens

    @property
    def prefill_token_ids(self) -> tuple[int, ...]:
        """Tokens that are computed before the next one is drawn."""
        return self.asked.token_ids + self.answer_token_ids

    @property
    def scores_prompt(self) -> bool:
        """True if log probabilities of the prompt are still to be sent, with the answer's first token."""
        return self.asked.sampling.prompt_logprobs and not self.answer_token_ids


@dataclass(frozen=True, slots=True)
class Token:
    """The token at `index` of an answer, from 0; `finish_reason` stands on the last one."""

    index: int
    token_id: int
    finish_reason: FinishReason | None = None
    logprobs: Logprobs | None = None
    num_cached_tokens: int = 0
    """Tokens of the prompt that were not computed again; the number stands on the first token."""
    prompt_logprobs: tuple[Logprobs, ...] = ()
    """Log probabilities of the prompt from its second token on, if asked for; set on the first token."""
