"""A model held for one call, as HTTP sees it."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass

from exo_lite.domain.ids import ModelId
from exo_lite.domain.placement import Instance
from exo_lite.domain.request import AnswerRequest, Token
from exo_lite.node.served_text import ServedText

Answer = Callable[[ModelId, AnswerRequest], AsyncGenerator[Token, None]]


@dataclass(frozen=True, slots=True)
class HeldModel:
    """Fits api.daemon_api.HeldModel. `instance` is the model as it was placed when the call began."""

    instance: Instance
    text: ServedText
    _answer: Answer

    @property
    def fingerprint(self) -> str:
        return fingerprint(self.instance)

    def answer(self, request: AnswerRequest) -> AsyncGenerator[Token, None]:
        return self._answer(self.instance.model_id, request)


def fingerprint(instance: Instance) -> str:
    """The same for two instances only if weights, types and the split are the same."""
    split = [(part.shard.start_layer, part.shard.end_layer) for part in instance.assignments]
    text = f"{instance.fingerprint} {instance.options.dtype} {instance.options.quant} {split}"
    return f"fp_{hashlib.sha256(text.encode()).hexdigest()[:12]}"
