"""How many prompt tokens one step carries at most, so that no stage computes for longer than a second or two."""

from __future__ import annotations

from exo_lite.domain.step import PREFILL_CHUNK_TOKENS

TARGET_MS = 1000.0
"""The most that a whole chunk should take at the slowest stage, when a size is chosen."""
LIMIT_MS = 1500.0
"""The time that makes chunks smaller. The distance to the target keeps the size from changing to and fro."""
MIN_CHUNK_TOKENS = 16
"""The smallest chunk: smaller ones take nearly as long, since reading the weights takes the time."""

_WEIGHT = 0.5
"""The weight of the newest measurement in a moving average."""


class ChunkSize:
    """`tokens` is a power of two from MIN_CHUNK_TOKENS to PREFILL_CHUNK_TOKENS; the latter until steps are slow.

    Only a few sizes, and a size that seldom changes: where numbers are not exact, their last bits depend on it.
    """

    def __init__(self) -> None:
        self.tokens = PREFILL_CHUNK_TOKENS
        self._token_ms: float | None = None

    def learn(self, num_tokens: int, compute_ms: float) -> None:
        """Take in a step with so many prompt tokens, by its time at the stage that took longest.

        Steps with few tokens tell little of a whole chunk: a step takes its time for the weights too. They count only
        as long as nothing is known.
        """
        least = MIN_CHUNK_TOKENS if self._token_ms is None else self.tokens // 2
        if num_tokens < least:
            return
        token_ms = compute_ms / num_tokens
        known_ms = token_ms if self._token_ms is None else self._token_ms
        self._token_ms = known_ms + _WEIGHT * (token_ms - known_ms)
        while self.tokens > MIN_CHUNK_TOKENS and self._is_too_slow():
            self.tokens //= 2
        if self.tokens < PREFILL_CHUNK_TOKENS and self._token_ms * 2 * self.tokens <= TARGET_MS:
            self.tokens *= 2

    def _is_too_slow(self) -> bool:
        assert self._token_ms is not None
        return self._token_ms * self.tokens > LIMIT_MS
