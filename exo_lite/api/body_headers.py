"""Checks of the headers that describe a request's body."""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException

MAX_QUOTED_CHARS = 64

_WITH_BODY = ("POST", "PUT", "PATCH")


def check_body_headers(method: str, headers: Headers) -> None:
    """Raises HTTPException: 400 for two lengths of one body, 415 for a body that is declared as other than JSON.

    A body that is not declared as anything is read as JSON. A page of another origin could send such a body unasked,
    like one declared as text: what keeps it out is the check of Origin or of the key.
    """
    if "content-length" in headers and "transfer-encoding" in headers:
        # RFC 9112, section 6.1: two readers may take two lengths of it, so that one sees a request where the other
        # sees a body
        message = "Content-Length and Transfer-Encoding exclude each other: send one of them."
        raise HTTPException(400, message, {"Connection": "close"})
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    has_body = "transfer-encoding" in headers or headers.get("content-length", "0") != "0"
    if method in _WITH_BODY and has_body and kind and not _is_json(kind):
        raise HTTPException(
            415,
            f"The body is declared as {kind[:MAX_QUOTED_CHARS]!r}: send JSON, with the header "
            "'Content-Type: application/json'.",
        )


def _is_json(kind: str) -> bool:
    return kind == "application/json" or (kind.startswith("application/") and kind.endswith("+json"))
