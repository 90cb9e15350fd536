"""The HTTP side of one daemon, put together."""

from __future__ import annotations

import time
from collections.abc import Sequence

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from exo_lite.api.access import AccessRules
from exo_lite.api.control import control_router
from exo_lite.api.daemon_api import DaemonApi
from exo_lite.api.dialects import Dialect
from exo_lite.api.error_responses import error_handler
from exo_lite.api.gate import Gate
from exo_lite.api.generation_context import GenerationContext
from exo_lite.api.health import HEALTH_PATH, health_router
from exo_lite.api.limits import HttpLimits
from exo_lite.api.metrics import RequestMetrics
from exo_lite.api.openai.dialect import OPENAI
from exo_lite.api.page import page_files, page_router
from exo_lite.api.state_events import events_router
from exo_lite.api.usage import Clock


def create_app(
    daemon: DaemonApi,
    *,
    api_key: str | None,
    allowed_hosts: Sequence[str],
    clock: Clock = time.monotonic,
    keep_alive_s: float = 10.0,
    limits: HttpLimits | None = None,
    dialects: Sequence[Dialect] = (OPENAI,),
) -> FastAPI:
    """Make the ASGI app over a daemon.

    With `api_key`, every route but GET /health and the page's files wants it. Without one, `allowed_hosts` are the host
    names that requests may carry besides plain addresses (`*`: any). `keep_alive_s` is the longest silence in a
    streamed answer. The first of `dialects` has the form of all errors at paths that no other one names. Raises
    InvalidRequest for a key that can't be one.
    """
    limits = limits or HttpLimits()
    context = GenerationContext(daemon, RequestMetrics(daemon.state), clock, keep_alive_s)
    files = page_files()
    handle_error = error_handler(dialects)
    app = FastAPI(
        openapi_url=None,  # the generated description would not know our errors
        redirect_slashes=False,
        strict_content_type=False,  # a body that is declared as nothing is JSON
        exception_handlers={HTTPException: handle_error, RequestValidationError: handle_error},
    )
    app.include_router(health_router(daemon, context.metrics))
    for dialect in dialects:
        app.include_router(dialect.routes(context))
    app.include_router(control_router(daemon, context.text_work))
    app.include_router(events_router(daemon, max_streams=limits.event_streams))
    app.include_router(page_router(files))
    rules = AccessRules(api_key, frozenset(allowed_hosts), frozenset({HEALTH_PATH, *files}))
    app.add_middleware(Gate, rules=rules, dialects=dialects, max_requests=limits.requests)
    return app
