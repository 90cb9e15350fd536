"""How a chat becomes a prompt."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class ChatStyle:
    """`continues_last`: the prompt ends with the words of the last message, and the answer goes on there."""

    add_generation_prompt: bool = True
    continues_last: bool = False
    variables: Mapping[str, object] = field(default_factory=dict)
    """For the template, beside those that it always has."""
