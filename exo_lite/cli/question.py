"""A question to a model, as the HTTP interface takes it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from exo_lite.domain.keep_alive import FOR_EVER

Message = dict[str, str]

RAW_MAX_TOKENS = 256
"""The length of a text without a chat template, which seldom ends by itself."""


@dataclass(frozen=True, slots=True)
class Question:
    """How to answer. What is None is left to the daemon."""

    system: str | None = None
    raw: bool = False
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()
    keep_alive_s: float | None = None

    def first_messages(self) -> list[Message]:
        return [{"role": "system", "content": self.system}] if self.system else []

    def chat_body(self, model: str, messages: Sequence[Message]) -> dict[str, Any]:
        return self._body(model) | {"messages": list(messages)}

    def completion_body(self, model: str, prompt: str) -> dict[str, Any]:
        return {"max_tokens": RAW_MAX_TOKENS} | self._body(model) | {"prompt": prompt}

    def _body(self, model: str) -> dict[str, Any]:
        wanted = {
            "max_tokens": self.max_tokens,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "top_k": self.top_k,
            "min_p": self.min_p,
            "repetition_penalty": self.repetition_penalty,
            "presence_penalty": self.presence_penalty,
            "frequency_penalty": self.frequency_penalty,
            "seed": self.seed,
            "stop": list(self.stop) or None,
            "keep_alive": -1 if self.keep_alive_s == FOR_EVER else self.keep_alive_s,  # JSON has no infinity
        }
        streaming = {"stream": True, "stream_options": {"include_usage": True}, "return_token_ids": True}
        return {"model": model, **streaming} | {key: value for key, value in wanted.items() if value is not None}
