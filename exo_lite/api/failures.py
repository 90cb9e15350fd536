"""Every error as one neutral failure with the status that SDKs act on: one table. Dialects give it their form."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from exo_lite.domain.errors import (
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

MAX_RETRY_AFTER_S = 5
"""SDKs wait as long as they are told before each of their two or three tries, with a user before them. Who comes too
early is refused again, at little cost; the places that become free go to whoever is there."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A failure as a client sees it. `retry_after_s` says when another try may succeed."""

    status: int
    code: str
    message: str
    param: str | None = None
    is_permanent: bool = True
    retry_after_s: int | None = None


_STATUS: dict[type[ExoLiteError], tuple[int, int | None]] = {
    InvalidRequest: (400, None),
    InvalidModel: (400, None),
    Unauthorized: (401, None),
    ModelNotFound: (404, None),
    QueueFull: (429, 1),
    DeadlineExceeded: (504, None),
    NotReady: (503, 2),
    NodeLost: (503, 2),
    ModelDoesNotFit: (507, None),
    ExoLiteError: (500, None),
}
"""Status and Retry-After in seconds, unless the error tells a better one.

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
    """Describe any error in the one way, whether ours, the framework's or a bug."""
    if isinstance(error, ExoLiteError):
        return _of_exo_lite(error)
    if isinstance(error, RequestValidationError):
        return _of_validation(error.errors())
    if isinstance(error, HTTPException):
        return _of_http(error)
    return Failure(500, "internal_error", "An unexpected error; the daemon's log names the place.")


def _of_exo_lite(error: ExoLiteError) -> Failure:
    ancestor = next(kind for kind in type(error).__mro__ if kind in _STATUS)
    status, usual_s = _STATUS[ancestor]
    expected_s = usual_s if error.retry_after_s is None else error.retry_after_s
    message = str(error)
    if expected_s is not None and expected_s > MAX_RETRY_AFTER_S:
        message = f"{message} (try again in about {expected_s} s)"
    retry_after_s = None if expected_s is None else min(expected_s, MAX_RETRY_AFTER_S)
    return Failure(status, error.code, message, error.param, error.is_permanent, retry_after_s)


def _of_http(error: HTTPException) -> Failure:
    code = _HTTP_CODES.get(error.status_code, "invalid_request")
    return Failure(error.status_code, code, error.detail, is_permanent=error.status_code != 408)


def _of_validation(problems: Sequence[dict[str, object]]) -> Failure:
    """The first problem; the offending value is not repeated, since it may be a prompt."""
    problem = problems[0]
    if problem["type"] == "json_invalid":
        return Failure(400, "invalid_request", "The body is not valid JSON.")
    place = problem["loc"]
    steps = [str(step) for step in place[1:]] if isinstance(place, tuple) else []
    known = list(takewhile(lambda step: not _is_union_member(step), steps))
    param = ".".join(known) or None
    what = problem["msg"] if known == steps else "it has none of the allowed forms"
    return Failure(400, "invalid_request", f"{param or 'body'}: {what}", param)


def _is_union_member(step: str) -> bool:
    """pydantic puts the type it tried into the place of a problem: `prompt.str`, `prompt.list[str]`."""
    return step == "str" or "[" in step
