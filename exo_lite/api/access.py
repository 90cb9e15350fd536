"""Access rules: the API key, the names of this daemon, the pages of other origins; default deny."""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from hmac import compare_digest
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException

from exo_lite.domain.api_key import parse_api_key
from exo_lite.domain.errors import Unauthorized

ANY_HOST = "*"
MAX_HOST_CHARS = 253
TENANT = "exo_lite.tenant"
"""The key of a request's scope that holds its tenant."""


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
    """Return whose request it is; the key itself goes no further than the gate."""
    return str(scope.get(TENANT, ""))


def given_key(headers: Headers, key_headers: Sequence[str]) -> str:
    """Read the key out of Authorization, or else out of one of `key_headers`; empty without one."""
    others = (headers.get(name, "").strip() for name in key_headers)
    return next(filter(None, (_bearer_token(headers.get("authorization", "")), *others)), "")


def _bearer_token(authorization: str) -> str:
    """Return the token, empty without one.

    The scheme may be in any case, and any number of spaces follows it (RFC 9110, section 11.4).
    """
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
    """Say whether a Host header names this daemon (against DNS rebinding). The port does not matter."""
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
