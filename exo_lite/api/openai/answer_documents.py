"""The parts of OpenAI's documents beside choices: a header, usage, and llama.cpp's timings."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from exo_lite.api.openai.framing import DONE
from exo_lite.api.sse import sse_event
from exo_lite.api.usage import Usage

Document = dict[str, object]


@dataclass(frozen=True, slots=True)
class AnswerHeader:
    """The fields that every document of an answer repeats; `created` in unix seconds."""

    id: str
    created: int
    model: str
    system_fingerprint: str

    def document(self, kind: str, choices: Sequence[Document]) -> Document:
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": self.system_fingerprint,
            "choices": list(choices),
        }


def new_header(prefix: Literal["chatcmpl", "cmpl"], model: str, fingerprint: str) -> AnswerHeader:
    return AnswerHeader(f"{prefix}-{uuid.uuid4().hex}", int(time.time()), model, fingerprint)


@dataclass(frozen=True, slots=True)
class ChunkEvents:
    """The events of one streamed answer; each is a document with some of the choices."""

    header: AnswerHeader
    kind: str
    include_usage: bool
    """True if the last document has the usage; it is null in the others."""

    def event(self, choices: Sequence[Document]) -> bytes:
        usage = {"usage": None} if self.include_usage else {}
        return sse_event({**self.header.document(self.kind, choices), **usage})

    def end(self, usage: Usage) -> Iterator[bytes]:
        if self.include_usage:
            yield sse_event({**self.header.document(self.kind, []), **usage_document(usage)})
        yield DONE


def usage_document(usage: Usage) -> Document:
    """`usage` and `timings` of a call."""
    return {
        "usage": {
            "prompt_tokens": usage.num_prompt_tokens,
            "completion_tokens": usage.num_answer_tokens,
            "total_tokens": usage.num_prompt_tokens + usage.num_answer_tokens,
            "prompt_tokens_details": {"cached_tokens": usage.num_cached_tokens},
        },
        "timings": _timings(usage),
    }


def _timings(usage: Usage) -> dict[str, float]:
    """The fields of llama.cpp's server: `prompt_n` tokens were computed, `cache_n` found in the cache.

    `prompt_ms` is the time to the first token; the second rate is that of the tokens after it.
    """
    num_computed = usage.num_prompt_tokens - usage.num_cached_tokens
    num_decoded = max(0, usage.num_answer_tokens - 1)
    return {
        "cache_n": usage.num_cached_tokens,
        "prompt_n": num_computed,
        "prompt_ms": round(1000 * usage.prompt_s, 3),
        "prompt_per_token_ms": _ratio(1000 * usage.prompt_s, num_computed),
        "prompt_per_second": _ratio(num_computed, usage.prompt_s),
        "predicted_n": usage.num_answer_tokens,
        "predicted_ms": round(1000 * usage.decode_s, 3),
        "predicted_per_token_ms": _ratio(1000 * usage.decode_s, num_decoded),
        "predicted_per_second": _ratio(num_decoded, usage.decode_s),
    }


def _ratio(value: float, by: float) -> float:
    return round(value / by, 3) if by > 0 else 0.0
