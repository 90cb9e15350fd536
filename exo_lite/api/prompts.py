"""Reads prompts as token ids out of a neutral request: chats are rendered, texts are encoded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from exo_lite.api.daemon_api import TextModel
from exo_lite.domain.chat import AnyRequest, ChatRequest
from exo_lite.domain.errors import ContextLengthExceeded, InvalidRequest


@dataclass(frozen=True, slots=True)
class Prompt:
    """One prompt as the model reads it. `echo` is its text where answers begin with that, else empty."""

    token_ids: tuple[int, ...]
    echo: str = ""


def read_prompts(model: TextModel, request: AnyRequest) -> list[Prompt]:
    """Render, encode and check a request's prompts; this may take long, and may be done on any thread.

    Raises InvalidRequest, ContextLengthExceeded.
    """
    if isinstance(request, ChatRequest):
        text = model.render_chat(request.messages, request.prompt_format)
        return [Prompt(_token_ids(model, text, request))]
    return [
        Prompt(_token_ids(model, prompt, request), _text(model, prompt) if request.is_echoed else "")
        for prompt in request.prompts
    ]


def _token_ids(model: TextModel, prompt: str | Sequence[int], request: AnyRequest) -> tuple[int, ...]:
    """Raises InvalidRequest for a prompt without tokens, ContextLengthExceeded for one that leaves no room."""
    param = request.prompts_param
    if isinstance(prompt, str):
        prompt = encode_within_context(model, prompt, add_bos=request.adds_special_tokens, param=param)
    if not prompt:
        raise InvalidRequest(f"{param} holds no tokens", param=param)
    if len(prompt) >= model.context_length:
        raise ContextLengthExceeded.of(
            num_prompt_tokens=len(prompt), num_answer_tokens=1, context_length=model.context_length, param=param
        )
    return tuple(prompt)


def encode_within_context(model: TextModel, text: str, *, add_bos: bool, param: str) -> list[int]:
    """Encode a text. Raises ContextLengthExceeded before it reads one that must be longer than the context."""
    if len(text) >= model.context_length:
        num_tokens = model.min_tokens(text)
        if num_tokens >= model.context_length:
            raise ContextLengthExceeded.of(
                num_prompt_tokens=num_tokens,
                num_answer_tokens=1,
                context_length=model.context_length,
                param=param,
                is_at_least=True,
            )
    return model.encode(text, add_bos=add_bos)


def _text(model: TextModel, prompt: str | Sequence[int]) -> str:
    if isinstance(prompt, str):
        return prompt
    stream = model.text_stream(())
    return "".join(stream.push(token_id)[0] for token_id in prompt) + stream.finish()
