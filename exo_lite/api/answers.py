"""OpenAI's answer documents, plain and in chunks, for the two generating routes."""

from __future__ import annotations

import math
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from exo_lite.api.generation import Stopwatch
from exo_lite.api.jobs import Job
from exo_lite.api.pieces import Piece, ScoredToken
from exo_lite.domain.request import FinishReason, Logprobs

Document = dict[str, object]


@dataclass(frozen=True, slots=True)
class Head:
    """What every chunk of an answer repeats; `created` in unix seconds."""

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


def new_head(prefix: Literal["chatcmpl", "cmpl"], model: str, fingerprint: str) -> Head:
    return Head(f"{prefix}-{uuid.uuid4().hex}", int(time.time()), model, fingerprint)


@dataclass(slots=True)
class Collected:
    """One whole answer, from its pieces."""

    texts: list[str] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)
    scored: list[ScoredToken] = field(default_factory=list)
    prompt_logprobs: list[Logprobs] = field(default_factory=list)
    finish_reason: FinishReason | None = None

    def add(self, piece: Piece) -> None:
        self.texts.append(piece.text)
        self.token_ids.extend(piece.token_ids)
        self.scored.extend(piece.scored)
        self.prompt_logprobs.extend(piece.prompt_logprobs)
        self.finish_reason = piece.finish_reason

    @property
    def text(self) -> str:
        return "".join(self.texts)

    @property
    def mean_logprob(self) -> float:
        """Average over its tokens; an answer without any is the least likely."""
        logprobs = [one.logprobs.chosen for one in self.scored if one.logprobs is not None]
        return sum(logprobs) / len(logprobs) if logprobs else -math.inf


def usage_document(jobs: Sequence[Job], watch: Stopwatch) -> Document:
    """The `usage` and `timings` of a call over all of its prompts and answers; each prompt counts once."""
    prompt_tokens = sum(len(job.request.token_ids) for job in jobs if job.after is None)
    return {
        "usage": {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": watch.num_tokens,
            "total_tokens": prompt_tokens + watch.num_tokens,
            "prompt_tokens_details": {"cached_tokens": watch.num_cached_tokens},
        },
        "timings": watch.timings(prompt_tokens),
    }


@dataclass(frozen=True, slots=True)
class Extras:
    """What choices tell beside their text. `describe` makes the `logprobs` of the route, if they are wanted."""

    with_token_ids: bool
    describe: Callable[[Sequence[ScoredToken]], Document] | None = None

    def token_ids(self, token_ids: Sequence[int]) -> Document:
        return {"token_ids": list(token_ids)} if self.with_token_ids else {}

    def logprobs(self, scored: Sequence[ScoredToken]) -> Document | None:
        """Of a whole answer."""
        return self.describe(scored) if self.describe else None

    def piece_logprobs(self, piece: Piece) -> Document | None:
        return self.logprobs(piece.scored) if piece.scored else None


def chat_choice(index: int, answer: Collected, extras: Extras) -> Document:
    message = {"role": "assistant", "content": answer.text, "refusal": None}
    tail = {"logprobs": extras.logprobs(answer.scored), "finish_reason": answer.finish_reason}
    return {"index": index, "message": message, **tail, **extras.token_ids(answer.token_ids)}


def chat_role_chunk(index: int) -> Document:
    return {"index": index, "delta": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": None}


def chat_chunks(index: int, piece: Piece, extras: Extras) -> list[Document]:
    """The deltas of one piece: its text, then, at the end of an answer, an empty one with the reason."""
    told = {"logprobs": extras.piece_logprobs(piece), **extras.token_ids(piece.token_ids)}
    end = {"index": index, "delta": {}, "finish_reason": piece.finish_reason}
    if not piece.text:
        return [{**end, **told}]
    text = {"index": index, "delta": {"content": piece.text}, "finish_reason": None, **told}
    return [text, {**end, "logprobs": None, **extras.token_ids(())}] if piece.finish_reason else [text]


def completion_choice(
    index: int, answer: Collected, extras: Extras, *, echo: str, echoed: Sequence[ScoredToken] = ()
) -> Document:
    """`echoed` are the prompt's tokens, where they are scored."""
    scored = [*echoed, *(replace(one, text_offset=one.text_offset + len(echo)) for one in answer.scored)]
    tail = {"logprobs": extras.logprobs(scored), "finish_reason": answer.finish_reason}
    return {"index": index, "text": echo + answer.text, **tail, **extras.token_ids(answer.token_ids)}


def completion_chunk(index: int, piece: Piece, extras: Extras) -> Document:
    tail = {"logprobs": extras.piece_logprobs(piece), "finish_reason": piece.finish_reason}
    return {"index": index, "text": piece.text, **tail, **extras.token_ids(piece.token_ids)}
