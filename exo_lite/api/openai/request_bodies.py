"""The bodies of OpenAI's two generating routes, with what other servers added to them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from exo_lite.domain.errors import InvalidRequest
from exo_lite.domain.keep_alive import KeepAlive, parse_keep_alive
from exo_lite.domain.request import MAX_MIN_TOKENS, MAX_TOP_LOGPROBS

MAX_PROMPTS = 128
MAX_MESSAGES = 8_192
MAX_CHOICES = 128
"""The limit for one call, over all of its prompts."""
MAX_N = 16
MAX_STOP_TOKENS = 64
MAX_TIMEOUT_S = 86_400

TokenId = Annotated[int, Field(ge=0, lt=2**31)]

_FAST = Field(fail_fast=True)
"""A long list has one problem, not one for each of its elements."""
_Texts = Annotated[list[str], _FAST]
_TokenIds = Annotated[list[TokenId], _FAST]


class _Body(BaseModel):
    """Unknown parameters are kept aside, for `openai.parameters` to judge."""

    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False)


class StreamOptions(_Body):
    include_usage: bool = False


class GenerateBody(_Body):
    """The fields that both routes share. Ours are `keep_alive` and `timeout`, the seconds that an answer may take."""

    model: str
    n: int | None = Field(default=None, ge=1, le=MAX_N)
    max_tokens: int | None = Field(default=None, ge=1)
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: dict[str, float] | None = None
    seed: int | None = None
    stop: str | _Texts | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    stop_token_ids: list[TokenId] | None = Field(default=None, max_length=MAX_STOP_TOKENS)
    min_tokens: int | None = Field(default=None, ge=0, le=MAX_MIN_TOKENS)
    ignore_eos: bool | None = None
    skip_special_tokens: bool | None = None
    add_special_tokens: bool | None = None
    return_token_ids: bool | None = None
    timeout: float | None = Field(default=None, gt=0, le=MAX_TIMEOUT_S)
    keep_alive: KeepAlive | None = None

    @property
    def keep_alive_s(self) -> float | None:
        """Raises InvalidRequest."""
        return None if self.keep_alive is None else parse_keep_alive(self.keep_alive)

    @property
    def include_usage(self) -> bool:
        return self.stream_options is not None and self.stream_options.include_usage

    @property
    def num_logprobs(self) -> int | None:
        """How many likely tokens to tell beside each sampled one; None: not even it. Raises InvalidRequest."""
        return None

    @property
    def scores_prompt(self) -> bool:
        """True to return log probabilities of the prompt's tokens too."""
        return False


class ContentPart(_Body):
    type: str
    text: str | None = None


class ChatMessage(_Body):
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | Annotated[list[ContentPart], _FAST] | None = None
    name: str | None = None
    tool_call_id: str | None = None
    reasoning_content: str | None = None


class ChatBody(GenerateBody):
    messages: list[ChatMessage] = Field(min_length=1, max_length=MAX_MESSAGES, fail_fast=True)
    tools: Annotated[list[dict[str, object]], _FAST] | None = None
    response_format: dict[str, object] | None = None
    max_completion_tokens: int | None = Field(default=None, ge=1)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(default=None, ge=0, le=MAX_TOP_LOGPROBS)
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    chat_template_kwargs: dict[str, object] | None = None
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh"] | None = None

    @property
    def num_logprobs(self) -> int | None:
        if self.top_logprobs and not self.logprobs:
            raise InvalidRequest("top_logprobs needs logprobs: true beside it", param="top_logprobs")
        return (self.top_logprobs or 0) if self.logprobs else None


class CompletionBody(GenerateBody):
    prompt: str | _Texts | _TokenIds | Annotated[list[_TokenIds], _FAST]
    max_tokens: int | None = Field(default=None, ge=0)
    best_of: int | None = Field(default=None, ge=1, le=MAX_N)
    echo: bool | None = None
    logprobs: int | None = Field(default=None, ge=0, le=MAX_TOP_LOGPROBS)

    @property
    def num_logprobs(self) -> int | None:
        is_ranked = self.num_candidates > (self.n or 1)
        return 0 if self.logprobs is None and is_ranked else self.logprobs

    @property
    def scores_prompt(self) -> bool:
        return bool(self.echo) and self.logprobs is not None

    @property
    def num_candidates(self) -> int:
        """Answers to draw for each prompt; the best `n` of them are told. Raises InvalidRequest."""
        wanted = self.n or 1
        if self.best_of is None:
            return wanted
        if self.best_of < wanted:
            raise InvalidRequest(f"best_of must be at least n, {wanted}, not {self.best_of}", param="best_of")
        if self.best_of > wanted and self.stream:
            raise InvalidRequest(
                "which answers are the best is known only at the end: leave out best_of or stream", param="best_of"
            )
        return self.best_of


def check_num_choices(num_prompts: int, num_candidates: int) -> None:
    """Raises InvalidRequest."""
    if num_prompts * num_candidates > MAX_CHOICES:
        raise InvalidRequest(
            f"{num_prompts} prompts with {num_candidates} answers each are more than {MAX_CHOICES} answers: "
            "send fewer at once",
            param="n",
        )


def prompts_of(prompt: str | list[str] | list[int] | list[list[int]]) -> tuple[str | tuple[int, ...], ...]:
    """List the separate prompts of a completions call, each as text or as token ids. Raises InvalidRequest."""
    if isinstance(prompt, str):
        return (prompt,)
    if prompt and all(isinstance(one, int) for one in prompt):
        return (tuple(one for one in prompt if isinstance(one, int)),)
    prompts = tuple(one if isinstance(one, str) else tuple(one) for one in prompt if not isinstance(one, int))
    if not 1 <= len(prompts) <= MAX_PROMPTS:
        raise InvalidRequest(f"prompt must hold 1 to {MAX_PROMPTS} prompts, not {len(prompts)}", param="prompt")
    return prompts
