"""OpenAI's form of errors and of streams; exo_lite's own routes speak it too."""

from __future__ import annotations

from exo_lite.api.dialects import Framing
from exo_lite.api.failures import Failure
from exo_lite.api.sse import KEEP_ALIVE, MEDIA_TYPE, sse_event

DONE = b"data: [DONE]\n\n"
"""The end of a stream that has come to its end."""

_TYPES = {
    401: "authentication_error",
    429: "rate_limit_error",
    500: "server_error",
    503: "service_unavailable_error",
    504: "timeout_error",
    507: "insufficient_memory_error",
}
"""The type that goes with a status; any other status is an `invalid_request_error`."""


def error_document(failure: Failure) -> dict[str, object]:
    kind = _TYPES.get(failure.status, "invalid_request_error")
    return {"error": {"message": failure.message, "type": kind, "param": failure.param, "code": failure.code}}


FRAMING = Framing(MEDIA_TYPE, KEEP_ALIVE, lambda failure: sse_event(error_document(failure)))
