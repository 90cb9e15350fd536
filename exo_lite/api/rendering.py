"""How a dialect says what its answers look like."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from exo_lite.api.daemon_api import HeldModel
from exo_lite.api.dialects import Framing
from exo_lite.api.pieces import Collected, Piece
from exo_lite.api.prompts import Prompt
from exo_lite.api.usage import Usage


class Rendering(Protocol):
    """The answers of one call in the words of a dialect.

    Each prompt has the same number of answers; those to one prompt have indices side by side.
    """

    def whole(self, answers: Sequence[Collected], usage: Usage) -> Mapping[str, object]:
        """Make the document of all answers, which stand in the order of their indices."""
        ...

    def piece(self, index: int, piece: Piece) -> Iterable[bytes]:
        """Write the next piece of the answer with this index, framed."""
        ...

    def end(self, usage: Usage) -> Iterable[bytes]:
        """Write what comes after all answers of a stream, framed."""
        ...


Render = Callable[[HeldModel, Sequence[Prompt]], Rendering]


@dataclass(frozen=True, slots=True)
class Reply:
    """How a dialect wants a call answered."""

    render: Render
    framing: Framing
    is_streamed: bool
    headers: Mapping[str, str] = field(default_factory=dict)
