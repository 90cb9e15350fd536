"""The log of the HTTP side: only unexpected errors, and never a value."""

from __future__ import annotations

import logging
import traceback

from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from exo_lite.domain.errors import ExoLiteError

_logger = logging.getLogger("exo_lite.api")
_EXPECTED = (ExoLiteError, HTTPException, RequestValidationError, ClientDisconnect)


def log_unexpected(error: BaseException) -> None:
    """The type and the place of a bug; its message is left out, since it may quote a prompt."""
    if not isinstance(error, _EXPECTED):
        places = "".join(traceback.format_tb(error.__traceback__))
        _logger.error("unexpected %s in a request\n%s", type(error).__name__, places)
