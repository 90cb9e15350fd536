"""The form of an API key: text that every client can send in an HTTP header and that no proxy changes."""

from __future__ import annotations

import re

from exo_lite.domain.errors import InvalidRequest

MAX_API_KEY_CHARS = 1024

_API_KEY = re.compile(r"[!-~](?:[ -~]*[!-~])?")


def parse_api_key(text: str) -> str:
    """Raises InvalidRequest, without quoting the key."""
    if not text:
        raise InvalidRequest("the API key is empty: choose one that nobody guesses, or leave it out", param="api_key")
    if len(text) > MAX_API_KEY_CHARS or not _API_KEY.fullmatch(text):
        raise InvalidRequest(
            f"the API key must be 1 to {MAX_API_KEY_CHARS} printable ASCII characters, with no space at its start or "
            "end: HTTP headers carry nothing else unchanged",
            param="api_key",
        )
    return text
