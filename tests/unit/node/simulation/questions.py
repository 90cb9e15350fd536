"""Requests that people make at simulated nodes, and what comes of them."""

from __future__ import annotations

from contextlib import aclosing
from dataclasses import dataclass, field

from exo_lite.daemon.parts import Daemon
from exo_lite.domain.errors import ExoLiteError
from exo_lite.domain.request import AnswerRequest, Sampling
from tests.unit.node.simulation.virtual_time import now_s


@dataclass
class Question:
    """One request. It ends with all its tokens, with an error, or with the node where it entered."""

    model: str
    prompt: tuple[int, ...]
    num_tokens: int
    entered_at: str
    tokens: list[int] = field(default_factory=list)
    error: ExoLiteError | None = None
    ended_at_s: float | None = None
    is_cut_off: bool = False
    """The node where it entered died: its client knows."""

    @property
    def is_over(self) -> bool:
        return self.ended_at_s is not None

    @property
    def is_answered(self) -> bool:
        return self.is_over and self.error is None and len(self.tokens) == self.num_tokens

    def cut_off(self) -> None:
        self.ended_at_s, self.is_cut_off = now_s(), True

    async def ask(self, daemon: Daemon) -> None:
        request = AnswerRequest(self.prompt, self.num_tokens, Sampling(temperature=0.0))
        try:
            async with daemon.service.serve(self.model) as held, aclosing(held.answer(request)) as tokens:
                async for token in tokens:
                    self.tokens.append(token.token_id)
        except ExoLiteError as error:
            self.error = error
        self.ended_at_s = now_s()
