"""What every request passes before a route sees it, whatever its path: default deny, limits, headers, typed errors."""

from __future__ import annotations

import asyncio
import hashlib
import ipaddress
import re
import uuid
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hmac import compare_digest
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from exo_lite.api.body_headers import check_body_headers
from exo_lite.api.dialects import Dialect, dialect_of
from exo_lite.api.error_responses import error_response
from exo_lite.api.limits import MAX_REQUESTS
from exo_lite.api.log import log_unexpected
from exo_lite.domain.api_key import parse_api_key
from exo_lite.domain.errors import DaemonBusy, Unauthorized

MAX_BODY_BYTES = 2 * 1024 * 1024
BODY_TIMEOUT_S = 30.0
"""For all of a request's body to arrive."""
ANY_HOST = "*"
MAX_HOST_CHARS = 253
HEALTH_PATHS = frozenset({"/health", "/readyz", "/metrics"})
"""They answer however many requests are under way."""

_TENANT = "exo_lite.tenant"

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


@dataclass(frozen=True, slots=True)
class AccessRules:
    """`open_paths` answer to anybody, for reading only.

    Without a key, requests must name this daemon as their Host, against DNS rebinding; plain addresses always do, since
    rebinding needs a name. With a key no page can be tricked into anything: it does not have it. Raises InvalidRequest.
    """

    api_key: str | None
    allowed_hosts: Collection[str]
    open_paths: frozenset[str]

    def __post_init__(self) -> None:
        if self.api_key is not None:
            parse_api_key(self.api_key)


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
            scope[_TENANT] = check_access(self._rules, scope["method"], scope["path"], headers, given)
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
            raise DaemonBusy(f"this daemon answers {self._num_requests} requests, as many as it can: ask again")
        self._num_requests += 1
        try:
            yield
        finally:
            self._num_requests -= 1


def check_access(rules: AccessRules, method: str, path: str, headers: Headers, given: str) -> str:
    """Name whose request it is, opaquely: by the key that opened, or by the one `given` though nobody asked for it.

    Raises HTTPException 403 for a foreign host or origin, Unauthorized for a missing or wrong key.
    """
    host = headers.get("host", "")
    if rules.api_key is None and not is_host_allowed(host, rules.allowed_hosts):
        raise HTTPException(403, _foreign_host_message(host))
    if path in rules.open_paths and method in ("GET", "HEAD"):
        return ""
    if rules.api_key is None:
        if not is_same_origin(headers.get("origin"), host):
            raise HTTPException(403, "A page of another origin may not call a daemon without an API key.")
        return _tenant(given)
    if not compare_digest(given.encode(), rules.api_key.encode()):
        raise Unauthorized("This daemon wants its API key: send the header 'Authorization: Bearer KEY'.")
    return _tenant(rules.api_key)


def tenant_of(scope: Mapping[str, object]) -> str:
    """Whose request it is; the key itself goes no further than the gate."""
    return str(scope.get(_TENANT, ""))


def given_key(headers: Headers, key_headers: Sequence[str]) -> str:
    """Read the key out of Authorization, or else out of one of `key_headers`; empty without one."""
    others = (headers.get(name, "").strip() for name in key_headers)
    return next(filter(None, (_bearer_token(headers.get("authorization", "")), *others)), "")


def _bearer_token(authorization: str) -> str:
    """Empty without one. The scheme may be in any case, and any number of spaces follows it (RFC 9110, 11.4)."""
    scheme, _, token = authorization.strip().partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def _tenant(key: str) -> str:
    return hashlib.blake2b(key.encode(), digest_size=8, person=b"exo-lite tenant").hexdigest() if key else ""


def _foreign_host_message(host: str) -> str:
    name = _host_name(host)[:MAX_HOST_CHARS] or "NAME"
    return (
        f"The host {host[:MAX_HOST_CHARS]!r} is not one of this daemon's names: start it with --allowed-host {name} "
        "(or EXO_LITE_ALLOWED_HOST), or with an API key, or use its address instead of a name."
    )


def is_host_allowed(host: str, allowed_hosts: Collection[str]) -> bool:
    """Whether a Host header names this daemon (against DNS rebinding). The port does not matter."""
    if ANY_HOST in allowed_hosts:
        return True
    name = _host_name(host)
    return bool(name) and (_is_address(name) or name in {_host_name(allowed) for allowed in allowed_hosts})


def is_same_origin(origin: str | None, host: str) -> bool:
    """Browsers send Origin with every call that a page makes across origins; other clients send none."""
    return origin is None or urlsplit(origin).netloc.lower() == host.lower()


def _host_name(host: str) -> str:
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


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
