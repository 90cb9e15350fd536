"""Requests like others, but for what they ask."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from exo_lite.domain.request import GenerateRequest


def asking(request: GenerateRequest, **changes: Any) -> GenerateRequest:
    """The same request with other fields of its AnswerRequest."""
    return replace(request, asked=replace(request.asked, **changes))
