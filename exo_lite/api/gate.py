"""The gate before every route: default deny, limits, headers, typed errors."""

from __future__ import annotations

import asyncio
import re
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from exo_lite.api.access import TENANT, AccessRules, check_access, given_key
from exo_lite.api.body_headers import check_body_headers
from exo_lite.api.dialects import Dialect, dialect_of
from exo_lite.api.error_responses import error_response
from exo_lite.api.limits import MAX_REQUESTS
from exo_lite.api.log import log_unexpected
from exo_lite.domain.errors import DaemonBusy

MAX_BODY_BYTES = 2 * 1024 * 1024
BODY_TIMEOUT_S = 30.0
"""The time that all of a request's body may take to arrive."""
HEALTH_PATHS = frozenset({"/health", "/readyz", "/metrics"})
"""They answer however many requests are under way."""

_CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "connect-src 'self'",
        "img-src 'self' data:",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
_SECURITY_HEADERS = {
    "Content-Security-Policy": _CONTENT_SECURITY_POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class Gate:
    """ASGI middleware: outermost, so that nothing can be added to the app that escapes it."""

    def __init__(
        self, app: ASGIApp, *, rules: AccessRules, dialects: Sequence[Dialect], max_requests: int = MAX_REQUESTS
    ) -> None:
        self._app = app
        self._rules = rules
        self._dialects = dialects
        self._max_requests = max_requests
        self._num_requests = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return  # no lifespan, no websockets
        scope["path"] = re.sub("/{2,}", "/", scope["path"])  # clients join base URL and path carelessly
        dialect = dialect_of(scope["path"], self._dialects)
        outgoing = _Outgoing(send)
        try:
            headers = Headers(scope=scope)
            given = given_key(headers, dialect.key_headers)
            scope[TENANT] = check_access(self._rules, scope["method"], scope["path"], headers, given)
            check_body_headers(scope["method"], headers)
            with self._place(scope["path"]):
                await self._app(scope, _LimitedBody(receive, headers).receive, outgoing.send)
        except Exception as error:  # the top of a request: whatever happens gets the form that its clients know
            log_unexpected(error)
            if not outgoing.has_started:
                await error_response(error, dialect)(scope, receive, outgoing.send)

    @contextmanager
    def _place(self, path: str) -> Iterator[None]:
        """One of the requests under way. Raises DaemonBusy; health checks and the page's files always get through."""
        if path in HEALTH_PATHS or path in self._rules.open_paths:
            yield
            return
        if self._num_requests >= self._max_requests:
            raise DaemonBusy(
                f"this daemon is answering {self._num_requests} requests, as many as it can: try again later"
            )
        self._num_requests += 1
        try:
            yield
        finally:
            self._num_requests -= 1


class _LimitedBody:
    """A `receive` that refuses bodies too large or too slow."""

    def __init__(self, receive: Receive, headers: Headers) -> None:
        self._receive = receive
        self._deadline_s = asyncio.get_running_loop().time() + BODY_TIMEOUT_S
        self._num_bytes = 0
        self._is_complete = False
        declared = headers.get("content-length", "0")
        if declared.isascii() and declared.isdigit():
            self._check(int(declared[:20]))

    async def receive(self) -> Message:
        if self._is_complete:
            return await self._receive()
        try:
            async with asyncio.timeout_at(self._deadline_s):
                message = await self._receive()
        except TimeoutError as error:
            raise HTTPException(408, f"The body did not arrive within {BODY_TIMEOUT_S:.0f} s.") from error
        self._num_bytes += len(message.get("body", b""))
        self._is_complete = not message.get("more_body", False)
        self._check(self._num_bytes)
        return message

    def _check(self, num_bytes: int) -> None:
        if num_bytes > MAX_BODY_BYTES:
            raise HTTPException(413, f"The body is larger than {MAX_BODY_BYTES} bytes.", {"Connection": "close"})


class _Outgoing:
    """A `send` that adds the headers of every response."""

    def __init__(self, send: Send) -> None:
        self.has_started = False
        self._send = send
        self._request_id = f"req_{uuid.uuid4().hex}"

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.has_started = True
            headers = MutableHeaders(raw=list(message["headers"]))
            headers["X-Request-Id"] = self._request_id
            headers.setdefault("Cache-Control", "no-store")
            for name, value in _SECURITY_HEADERS.items():
                headers[name] = value
            message = {**message, "headers": headers.raw}
        await self._send(message)
