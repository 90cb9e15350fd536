"""Errors as responses in the form of the dialect that is spoken at their path."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence

from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from exo_lite.api.dialects import Dialect, dialect_of
from exo_lite.api.failures import Failure, failure_of
from exo_lite.api.route_hints import not_found_message, wrong_method_message
from exo_lite.domain.errors import DaemonBusy

CLIENT_GONE_STATUS = 499
"""Nobody reads it: the connection is closed."""


def error_response(error: BaseException, dialect: Dialect) -> Response:
    if isinstance(error, ClientDisconnect):
        return Response(status_code=CLIENT_GONE_STATUS)
    failure = failure_of(error)
    headers = dict(error.headers or {}) if isinstance(error, HTTPException) else {}
    if isinstance(error, DaemonBusy):
        headers["Connection"] = "close"  # its place is for another one
    return JSONResponse(dialect.error_document(failure), failure.status, {**headers, **_headers(failure)})


def _headers(failure: Failure) -> dict[str, str]:
    headers: dict[str, str] = {}
    if failure.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    if failure.retry_after_s is not None:
        headers["Retry-After"] = str(failure.retry_after_s)
    if failure.is_permanent:
        headers["x-should-retry"] = "false"  # OpenAI's and Anthropic's SDKs repeat every 5xx otherwise
    return headers


def error_handler(dialects: Sequence[Dialect]) -> Callable[[Request, Exception], Coroutine[None, None, Response]]:
    """Make the framework's hook for errors raised in routes, and for the lack of a route."""

    async def handle(request: Request, error: Exception) -> Response:
        if isinstance(error, HTTPException):
            error.detail = _in_words(error, request)
        return error_response(error, dialect_of(request.url.path, dialects))

    return handle


def _in_words(error: HTTPException, request: Request) -> str:
    """Say more where the framework has only the status' name."""
    path = request.url.path
    if (error.status_code, error.detail) == (404, "Not Found"):
        return not_found_message(path)
    if (error.status_code, error.detail) == (405, "Method Not Allowed"):
        return wrong_method_message(request.method, path, (error.headers or {}).get("Allow", "another method"))
    return error.detail
