"""Requests for answers as every API dialect hands them on: a chat or texts, and how the answers are drawn and end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from exo_lite.domain.errors import InvalidRequest
from exo_lite.domain.request import Sampling

Document = Mapping[str, object]
"""A JSON object."""


@dataclass(frozen=True, slots=True)
class PromptFormat:
    """How a chat becomes a prompt.

    With `continues_last`, the prompt ends with the words of the last message, and the answer goes on there.
    """

    add_generation_prompt: bool = True
    continues_last: bool = False
    variables: Mapping[str, object] = field(default_factory=dict)
    """Variables for the template, beside those that it always has."""


@dataclass(frozen=True, slots=True)
class AnswerOptions:
    """How answers are drawn and how they end: all prompts and answers of one call share this."""

    model: str
    sampling: Sampling
    max_tokens: int | None = None
    """None: what the context leaves. 0: nothing of the answer is wanted, only what is told of the prompt."""
    num_answers: int = 1
    """The answers to each prompt; their seeds count up."""
    ignore_eos: bool = False
    stop_token_ids: frozenset[int] = frozenset()
    """They end an answer beside the model's own."""
    stops: tuple[str, ...] = ()
    skip_special: bool = True
    """True to leave an answer's special tokens out of its text."""
    tenant: str = ""
    """The owner of the answers, as an opaque name."""
    timeout_s: float | None = None
    """The time that each answer may take."""
    keep_alive_s: float | None = None
    """How long the model stays in memory after its last request; None leaves that to the daemon."""


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """A chat that the model is to go on with. Raises InvalidRequest for tools and for a response format."""

    prompts_param: ClassVar[str] = "messages"

    options: AnswerOptions
    messages: tuple[Document, ...]
    """Messages as chat templates take them: `role`, `content` as one text, and what else templates may read."""
    prompt_format: PromptFormat = field(default_factory=PromptFormat)
    adds_special_tokens: bool = False
    """True to put the model's first token before the prompt; templates write it themselves."""
    tools: tuple[Document, ...] = ()
    """Functions as chat templates take them: OpenAI's documents with JSON schemas."""
    response_format: Document | None = None
    """The form that the answer must have, as OpenAI's document; None is plain text."""

    def __post_init__(self) -> None:
        for name, is_asked in (("tools", bool(self.tools)), ("response_format", self.response_format is not None)):
            if is_asked:
                raise InvalidRequest(f"{name} is not supported yet: leave it out", param=name)

    @property
    def num_chars(self) -> int:
        return sum(len(str(message["content"])) for message in self.messages)


@dataclass(frozen=True, slots=True)
class CompletionRequest:
    """Texts, or their token ids, that the model is to go on with."""

    prompts_param: ClassVar[str] = "prompt"

    options: AnswerOptions
    prompts: tuple[str | tuple[int, ...], ...]
    adds_special_tokens: bool = True
    """True to put the model's first token before prompts that are texts."""
    is_echoed: bool = False
    """True if answers begin with their prompt's text."""

    @property
    def num_chars(self) -> int:
        return sum(map(len, self.prompts))


AnyRequest = ChatRequest | CompletionRequest
