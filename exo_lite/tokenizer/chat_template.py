"""Chat templates in jinja2's sandbox, with the variables and filters of transformers."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import NoReturn

import jinja2
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, LoopControlExtension
from jinja2.nodes import Node
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from exo_lite.domain.errors import InvalidModel, InvalidRequest
from exo_lite.tokenizer.special_tokens import SpecialTokens

_END_MARK = "EndOfWhatWasGiven7f3a"
"""Stands after the last message while a prompt is rendered that ends there."""

MAX_PROMPT_CHARACTERS = 1 << 20
"""Longer than any context that is served, so that a template that never ends is stopped."""

_FAULTS_OF_EXPRESSIONS = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)


class ChatTemplate:
    """Messages to the prompt that a model was trained on.

    The sandbox keeps a template to its variables, but not from taking time and memory without end: a template out of a
    model's files runs as a `BoundedTemplate`.
    """

    def __init__(self, source: str, special: SpecialTokens, *, now: Callable[[], datetime] = datetime.now) -> None:
        environment = _environment(now)
        try:
            self._template = environment.from_string(source)
        except (jinja2.TemplateError, RecursionError) as error:
            raise InvalidModel(f"the model's chat template is not valid: {error}") from error
        self._variables = _template_variables(special)

    def render(
        self,
        messages: Sequence[Mapping[str, object]],
        *,
        add_generation_prompt: bool = True,
        continues_last: bool = False,
        variables: Mapping[str, object] | None = None,
    ) -> str:
        """The prompt as text, special tokens written out; with `continues_last`, up to the end of the last message.

        Raises InvalidRequest where the template does not take these messages, InvalidModel where it misbehaves.
        """
        given = {
            **(variables or {}),
            **self._variables,
            "messages": _with_mark(messages) if continues_last else [dict(message) for message in messages],
            "add_generation_prompt": add_generation_prompt,
        }
        prompt = self._rendered(given)
        return _up_to_mark(prompt) if continues_last else prompt

    def _rendered(self, variables: Mapping[str, object]) -> str:
        try:
            return self._bounded(variables)
        except SecurityError as error:
            raise InvalidModel(f"the model's chat template does what templates may not: {error}") from error
        except (jinja2.TemplateError, *_FAULTS_OF_EXPRESSIONS) as error:
            raise InvalidRequest(
                f"the model's chat template does not take these messages: {error}", param="messages"
            ) from error

    def _bounded(self, variables: Mapping[str, object]) -> str:
        pieces: list[str] = []
        num_characters = 0
        for piece in self._template.generate(variables):
            pieces.append(piece)
            num_characters += len(piece)
            if num_characters > MAX_PROMPT_CHARACTERS:
                raise InvalidRequest(
                    f"the chat comes to more than {MAX_PROMPT_CHARACTERS} characters: send fewer or shorter messages",
                    param="messages",
                )
        return "".join(pieces)


def _with_mark(messages: Sequence[Mapping[str, object]]) -> list[dict[str, object]]:
    """The space behind the mark shows whether the template cuts the spaces at a message's end."""
    *before, last = [dict(message) for message in messages]
    return [*before, {**last, "content": f"{last['content']}{_END_MARK} "}]


def _up_to_mark(prompt: str) -> str:
    given, mark, rest = prompt.rpartition(_END_MARK)
    if not mark:
        raise InvalidRequest(
            "the model's chat template leaves out the last message: it can't be continued, end with the user's",
            param="messages",
        )
    return given if rest.startswith(" ") else given.rstrip()


class _GenerationBlocks(Extension):
    """{% generation %} marks the assistant's words for training; here its content is all that counts."""

    tags = {"generation"}  # noqa: RUF012  # jinja2 declares it as an instance attribute

    def parse(self, parser: Parser) -> list[Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _environment(now: Callable[[], datetime]) -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationBlocks, LoopControlExtension]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = lambda date_format: now().strftime(date_format)
    return environment


def _template_variables(special: SpecialTokens) -> dict[str, object]:
    tokens = {
        "bos_token": special.bos_token,
        "eos_token": special.eos_token,
        "unk_token": special.unk_token,
        "pad_token": special.pad_token,
    }
    present = {name: token for name, token in tokens.items() if token is not None}
    return {**present, "tools": None, "documents": None}


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _to_json(
    value: object,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Plain JSON: jinja2's own filter would escape characters for HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
