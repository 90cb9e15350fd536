"""Hints for unknown paths: the route that the client may have meant."""

from __future__ import annotations

from difflib import get_close_matches

PATHS = (
    "/health",
    "/readyz",
    "/metrics",
    "/v1/models",
    "/v1/completions",
    "/v1/chat/completions",
    "/api/v1/plan",
    "/api/v1/state",
    "/api/v1/events",
)
"""Paths without variable parts, the shorter one first of two with the same end."""
MAX_PATH_CHARS = 96
SIMILAR_ENOUGH = 0.8

_OTHERWISE = "OpenAI's API is under /v1: /v1/chat/completions, /v1/completions, /v1/models"


def not_found_message(path: str) -> str:
    meant = _meant(path.rstrip("/"))
    return f"There is nothing at {path[:MAX_PATH_CHARS]!r}: {f'did you mean {meant}?' if meant else f'{_OTHERWISE}.'}"


def wrong_method_message(method: str, path: str, allowed: str) -> str:
    return f"{method[:16]} is not possible at {path[:MAX_PATH_CHARS]!r}: use {allowed}."


def _meant(path: str) -> str | None:
    """Clients add a base URL's path once too often or not at all, and people mistype."""
    if not path:
        return None
    if path.startswith("/models/"):
        return f"/v1{path[:MAX_PATH_CHARS]}"
    longer = [known for known in PATHS if known.endswith(path)]
    shorter = [known for known in reversed(PATHS) if path.endswith(known)]
    return next(iter([*longer, *shorter, *get_close_matches(path, PATHS, n=1, cutoff=SIMILAR_ENOUGH)]), None)
