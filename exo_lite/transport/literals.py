"""Words on the wire that stand for a Literal type inside."""

from __future__ import annotations

from collections.abc import Collection
from typing import TypeVar

from exo_lite.domain.errors import MalformedMessage

W = TypeVar("W", bound=str)


def read_literal(word: str, known: Collection[W]) -> W:
    """Return the word that it is. Raises MalformedMessage for one that this version does not know."""
    for one in known:
        if one == word:
            return one
    raise MalformedMessage(f"{word!r} is none of {', '.join(known)}: do both nodes run the same version?")
