"""API dialects: each has its routes, the form of its errors and the framing of its streams.

A new one is a folder like `openai/`: its routes make a request of `domain.chat` out of a body and hand it to
`answering.respond` with a Rendering; `create_app` names it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from fastapi import APIRouter

from exo_lite.api.failures import Failure
from exo_lite.api.generation_context import GenerationContext


@dataclass(frozen=True, slots=True)
class Framing:
    """How a dialect's streams look on the wire."""

    media_type: str
    keep_alive: bytes
    """The bytes that fill a silence and that clients skip; empty if they skip nothing."""
    failure: Callable[[Failure], bytes]
    """Write what ends a stream that has begun and fails."""


@dataclass(frozen=True, slots=True)
class Dialect:
    """One API as its clients know it, over the same answers as the others."""

    routes: Callable[[GenerationContext], APIRouter]
    framing: Framing
    error_document: Callable[[Failure], Mapping[str, object]]
    paths: frozenset[str] = frozenset()
    """The paths whose errors have this dialect's form. The first dialect of an app needs none: see `dialect_of`."""
    key_headers: tuple[str, ...] = ()
    """Headers that may carry the API key, beside `Authorization: Bearer KEY`."""


def dialect_of(path: str, dialects: Sequence[Dialect]) -> Dialect:
    """Find who speaks at a path: the first dialect, wherever no other one has named it."""
    return next((dialect for dialect in dialects if path in dialect.paths), dialects[0])
