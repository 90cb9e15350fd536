"""Texts are parsed, rendered and cut into tokens on threads of their own: the event loop goes on meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")

LONG_TEXT_CHARS = 32 * 1024
NUM_SHORT_THREADS = 2
NUM_LONG_THREADS = 1


class TextWork:
    """Short texts do not wait for long ones, and long ones take one thread at most. Whoever is cancelled leaves."""

    def __init__(self) -> None:
        self._short = ThreadPoolExecutor(NUM_SHORT_THREADS, "text")
        self._long = ThreadPoolExecutor(NUM_LONG_THREADS, "long-text")

    async def run(self, num_chars: int, call: Callable[[], T]) -> T:
        """Run `call`, which reads about so many characters, and return or raise its result."""
        threads = self._long if num_chars > LONG_TEXT_CHARS else self._short
        return await asyncio.get_running_loop().run_in_executor(threads, call)
