"""Every failure as OpenAI's error document with the status that SDKs act on: one table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from exo_lite.api.route_hints import not_found_message, wrong_method_message
from exo_lite.domain.errors import (
    DaemonBusy,
    DeadlineExceeded,
    ExoLiteError,
    InvalidModel,
    InvalidRequest,
    ModelDoesNotFit,
    ModelNotFound,
    NodeLost,
    NotReady,
    QueueFull,
    Unauthorized,
)

CLIENT_GONE_STATUS = 499
"""Nobody reads it: the connection is closed."""
MAX_RETRY_AFTER_S = 5
"""SDKs wait as long as they are told before each of their two or three tries, with a user before them. Who comes too
early is refused again, at little cost; the places that become free go to whoever is there."""


@dataclass(frozen=True, slots=True)
class Failure:
    """What a client is told. `retry_after_s` says when another try may go better."""

    status: int
    type: str
    code: str
    message: str
    param: str | None = None
    is_permanent: bool = True
    retry_after_s: int | None = None

    @property
    def document(self) -> dict[str, object]:
        return {"error": {"message": self.message, "type": self.type, "param": self.param, "code": self.code}}


_STATUS: dict[type[ExoLiteError], tuple[int, str, int | None]] = {
    InvalidRequest: (400, "invalid_request_error", None),
    InvalidModel: (400, "invalid_request_error", None),
    Unauthorized: (401, "authentication_error", None),
    ModelNotFound: (404, "invalid_request_error", None),
    QueueFull: (429, "rate_limit_error", 1),
    DeadlineExceeded: (504, "timeout_error", None),
    NotReady: (503, "service_unavailable_error", 2),
    NodeLost: (503, "service_unavailable_error", 2),
    ModelDoesNotFit: (507, "insufficient_memory_error", None),
    ExoLiteError: (500, "server_error", None),
}
"""Status, type and Retry-After in seconds, unless the error tells a better one.

A subclass goes by its nearest ancestor here."""

_HTTP_CODES = {
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    408: "request_timeout",
    413: "request_too_large",
    415: "unsupported_media_type",
}


def failure_of(error: BaseException) -> Failure:
    """The one description of any error, whether ours, the framework's or a bug."""
    if isinstance(error, ExoLiteError):
        return _of_exo_lite(error)
    if isinstance(error, RequestValidationError):
        return _of_validation(error.errors())
    if isinstance(error, HTTPException):
        return _of_http(error)
    return Failure(500, "server_error", "internal_error", "An unexpected error; the daemon's log names the place.")


def error_response(error: BaseException) -> Response:
    if isinstance(error, ClientDisconnect):
        return Response(status_code=CLIENT_GONE_STATUS)
    failure = failure_of(error)
    headers = dict(error.headers or {}) if isinstance(error, HTTPException) else {}
    if failure.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    if failure.retry_after_s is not None:
        headers["Retry-After"] = str(failure.retry_after_s)
    if isinstance(error, DaemonBusy):
        headers["Connection"] = "close"  # its place is for another one
    if failure.is_permanent:
        headers["x-should-retry"] = "false"  # OpenAI's SDKs repeat every 5xx otherwise
    return JSONResponse(failure.document, failure.status, headers)


async def handle_error(request: Request, error: Exception) -> Response:
    """The framework's hook for errors raised in routes, and for the lack of a route."""
    if isinstance(error, HTTPException):
        error.detail = _in_words(error, request)
    return error_response(error)


def _in_words(error: HTTPException, request: Request) -> str:
    """What the framework has only the status' name for."""
    path = request.url.path
    if (error.status_code, error.detail) == (404, "Not Found"):
        return not_found_message(path)
    if (error.status_code, error.detail) == (405, "Method Not Allowed"):
        return wrong_method_message(request.method, path, (error.headers or {}).get("Allow", "another method"))
    return error.detail


def _of_exo_lite(error: ExoLiteError) -> Failure:
    ancestor = next(kind for kind in type(error).__mro__ if kind in _STATUS)
    status, kind, usual_s = _STATUS[ancestor]
    expected_s = usual_s if error.retry_after_s is None else error.retry_after_s
    message = str(error)
    if expected_s is not None and expected_s > MAX_RETRY_AFTER_S:
        message = f"{message} (there should be room in about {expected_s} s)"
    retry_after_s = None if expected_s is None else min(expected_s, MAX_RETRY_AFTER_S)
    return Failure(status, kind, error.code, message, error.param, error.is_permanent, retry_after_s)


def _of_http(error: HTTPException) -> Failure:
    code = _HTTP_CODES.get(error.status_code, "invalid_request")
    return Failure(
        error.status_code, "invalid_request_error", code, error.detail, is_permanent=error.status_code != 408
    )


def _of_validation(problems: Sequence[dict[str, object]]) -> Failure:
    """The first problem; the offending value is not repeated, since it may be a prompt."""
    problem = problems[0]
    if problem["type"] == "json_invalid":
        message = "The body is not valid JSON."
        return Failure(400, "invalid_request_error", "invalid_request", message)
    place = problem["loc"]
    steps = [str(step) for step in place[1:]] if isinstance(place, tuple) else []
    known = list(takewhile(lambda step: not _is_union_member(step), steps))
    param = ".".join(known) or None
    what = problem["msg"] if known == steps else "none of the forms that it may have"
    return Failure(400, "invalid_request_error", "invalid_request", f"{param or 'body'}: {what}", param)


def _is_union_member(step: str) -> bool:
    """pydantic puts the type it tried into the place of a problem: `prompt.str`, `prompt.list[str]`."""
    return step == "str" or "[" in step
