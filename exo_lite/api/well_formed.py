"""Bodies whose texts are Unicode: JSON can write half a surrogate pair, which no answer and no tokenizer can hold."""

from __future__ import annotations

import re

_SUSPECT = re.compile(rb"\\u[dD][89a-fA-F]|\xed[\xa0-\xbf]")
_ESCAPES = re.compile(
    rb"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|\\(u[dD][89a-fA-F][0-9a-fA-F]{2})|\\.", re.DOTALL
)
"""A pair, half of one (the group), or another escape."""
_ENCODED = re.compile(rb"\xed[\xa0-\xbf][\x80-\xbf]")
"""Half a pair in what would be UTF-8, which has no such thing."""


def with_whole_characters(content: bytes) -> bytes:
    """JSON with U+FFFD in place of lone surrogates, and of the same length."""
    if not _SUSPECT.search(content):
        return content
    escaped = _ESCAPES.sub(lambda match: rb"\ufffd" if match[1] else match[0], content)
    return _ENCODED.sub("\ufffd".encode(), escaped)
