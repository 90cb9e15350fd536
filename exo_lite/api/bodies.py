"""The JSON body of a request, checked: bounded before it is read, and read off the event loop where it is long."""

from __future__ import annotations

import json
import re
from functools import partial
from typing import TypeVar

from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request

from exo_lite.api.text_work import TextWork
from exo_lite.api.well_formed import with_whole_characters

B = TypeVar("B", bound=BaseModel)

MAX_VALUES = 262_144
"""Numbers, texts, lists and so on in one body: twice the longest context that Llama models have, as token ids."""
SHORT_BODY_BYTES = 16 * 1024

_TEXT = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
_INVALID = {"type": "json_invalid", "loc": ("body",), "msg": "JSON decode error"}


async def read_body(request: Request, kind: type[B], work: TextWork) -> B:
    """Raises RequestValidationError, or HTTPException 413 for more values than any request needs."""
    content = await request.body()
    if len(content) <= SHORT_BODY_BYTES:
        return parse_body(content, kind)
    return await work.run(len(content), partial(parse_body, content, kind))


def parse_body(content: bytes, kind: type[B]) -> B:
    """Raises RequestValidationError, HTTPException 400 for a body in another encoding, or 413."""
    if b"\0" in content[:4]:  # RFC 8259, section 8.1; the JSON library would read it as UTF-16 or UTF-32
        raise HTTPException(400, "The body is not in UTF-8.")
    check_num_values(content)
    try:
        document = json.loads(with_whole_characters(content))
    except (ValueError, RecursionError) as error:  # also for numbers of thousands of digits
        raise RequestValidationError([_INVALID]) from error
    try:
        return kind.model_validate(document)
    except ValidationError as error:
        problems = error.errors(include_url=False, include_context=False, include_input=False)
        raise RequestValidationError([{**one, "loc": ("body", *one["loc"])} for one in problems[:1]]) from error


def check_num_values(content: bytes) -> None:
    """Raises HTTPException 413. What stands within texts does not count."""
    if content.count(b",") < MAX_VALUES:
        return
    num_values = _TEXT.sub(b"", content).count(b",") + 1
    if num_values > MAX_VALUES:
        raise HTTPException(413, f"The body holds {num_values} values, more than the {MAX_VALUES} allowed.")
