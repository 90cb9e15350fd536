"""Turns the messages of a chat body into what chat templates take."""

from __future__ import annotations

from collections.abc import Sequence

from exo_lite.api.openai.parameters import refuse_unsupported
from exo_lite.api.openai.request_bodies import ChatBody, ChatMessage, ContentPart
from exo_lite.domain.chat import PromptFormat
from exo_lite.domain.errors import InvalidRequest

MAX_TEMPLATE_DEPTH = 16

RESERVED_VARIABLES = frozenset(
    {
        *("messages", "add_generation_prompt", "continue_final_message", "tools", "documents"),
        *("bos_token", "eos_token", "unk_token", "pad_token"),
        *("raise_exception", "strftime_now", "range", "dict", "lipsum", "cycler", "joiner", "namespace"),
    }
)
"""Names that every chat template gets, or finds in jinja2."""


def message_text(message: ChatMessage, place: str) -> str:
    """Join a message's text parts as lines. Raises InvalidRequest for other parts, and where there is nothing."""
    content = f"{place}.content"
    if message.content is None or message.content == []:
        if message.role == "assistant":
            return ""
        raise InvalidRequest(f"{content} is missing: a message of the {message.role} needs a text", param=content)
    if isinstance(message.content, str):
        return message.content
    return "\n".join(_part_text(part, f"{content}.{index}") for index, part in enumerate(message.content))


def _part_text(part: ContentPart, place: str) -> str:
    """Raises InvalidRequest."""
    if part.type != "text":
        raise InvalidRequest(f"{place}: parts of type {part.type!r} are not supported yet, only text", param=place)
    if part.text is None:
        raise InvalidRequest(f"{place}.text is missing", param=f"{place}.text")
    return part.text


def template_messages(messages: Sequence[ChatMessage]) -> tuple[dict[str, object], ...]:
    """Write messages as chat templates know them: text content, and OpenAI's `developer` as the `system` it replaced.

    Raises InvalidRequest.
    """
    rendered: list[dict[str, object]] = []
    for index, message in enumerate(messages):
        place = f"messages.{index}"
        refuse_unsupported(message, place=f"{place}.")
        role = "system" if message.role == "developer" else message.role
        optional = {
            "name": message.name,
            "tool_call_id": message.tool_call_id,
            "reasoning_content": message.reasoning_content,
        }
        kept = {key: value for key, value in optional.items() if value is not None}
        rendered.append({"role": role, "content": message_text(message, place), **kept})
    return tuple(rendered)


def prompt_format(body: ChatBody) -> PromptFormat:
    """A last message of the assistant is continued unless the body says otherwise. Raises InvalidRequest."""
    is_prefilled = body.messages[-1].role == "assistant"
    if body.continue_final_message and not is_prefilled:
        raise InvalidRequest(
            "continue_final_message needs a last message of the assistant", param="continue_final_message"
        )
    if body.continue_final_message and body.add_generation_prompt:
        raise InvalidRequest(
            "continue_final_message and add_generation_prompt exclude each other", param="continue_final_message"
        )
    says_nothing = body.continue_final_message is None and body.add_generation_prompt is None
    continues_last = bool(body.continue_final_message) or (is_prefilled and says_nothing)
    opens = not continues_last and body.add_generation_prompt is not False
    return PromptFormat(opens, continues_last, _template_variables(body))


def _template_variables(body: ChatBody) -> dict[str, object]:
    """Collect what the template gets; what it does not know of these changes nothing. Raises InvalidRequest."""
    given = body.chat_template_kwargs or {}
    for name, value in given.items():
        if name in RESERVED_VARIABLES:
            raise InvalidRequest(
                f"chat_template_kwargs.{name} would replace a variable of the template: leave it out",
                param="chat_template_kwargs",
            )
        if _is_deeper(value, MAX_TEMPLATE_DEPTH):
            raise InvalidRequest(
                f"chat_template_kwargs holds more than {MAX_TEMPLATE_DEPTH} lists or objects in each other",
                param="chat_template_kwargs",
            )
    if body.reasoning_effort is None:
        return given
    thinking = {"enable_thinking": False} if body.reasoning_effort == "none" else {}
    return {"reasoning_effort": body.reasoning_effort, **thinking, **given}


def _is_deeper(value: object, depth: int) -> bool:
    if not isinstance(value, dict | list):
        return False
    return depth == 0 or any(
        _is_deeper(one, depth - 1) for one in (value.values() if isinstance(value, dict) else value)
    )
