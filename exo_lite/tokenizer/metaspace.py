"""How SentencePiece writes a space within its pieces."""

from __future__ import annotations

SPACE = "▁"
