"""From a request's body to the work it asks for: budget, sampling, stops. Pure but for the random seed."""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from exo_lite.api.backend import TextModel
from exo_lite.api.openai_bodies import GenerateBody, stop_strings
from exo_lite.domain.errors import ContextLengthExceeded, InvalidRequest
from exo_lite.domain.request import AnswerRequest, Sampling

_TOKEN_ID = re.compile(r"[0-9]{1,9}")


@dataclass(frozen=True, slots=True)
class Job:
    """One prompt, and how to answer it in text."""

    request: AnswerRequest
    stops: tuple[str, ...]
    skip_special: bool
    is_prompt_only: bool = False
    """Nothing is wanted of the answer, of which one token is drawn all the same."""
    after: int | None = None
    """The job of the same call and prompt whose first token comes first: the prompt is then found in the cache."""


@dataclass(frozen=True, slots=True)
class AnswerStyle:
    """How answers end and are drawn: what all prompts of one call share. `max_tokens` None is all that is left."""

    max_tokens: int | None
    sampling: Sampling
    ignore_eos: bool
    stop_token_ids: frozenset[int]
    """Beside the model's own."""
    stops: tuple[str, ...]
    skip_special: bool
    tenant: str
    timeout_s: float | None


def repeated(jobs: Sequence[Job], count: int) -> list[Job]:
    """Each prompt `count` times in a row, seeds counting up: answer i is what the seed + i gives by itself."""
    return [_repetition(job, index, number, count) for index, job in enumerate(jobs) for number in range(count)]


def _repetition(job: Job, index: int, number: int, count: int) -> Job:
    sampling = replace(job.request.sampling, seed=(job.request.sampling.seed + number) % 2**64)
    return replace(job, request=replace(job.request, sampling=sampling), after=index * count if number else None)


def style_of(body: GenerateBody, *, max_tokens: int | None, tenant: str) -> AnswerStyle:
    """Raises InvalidRequest."""
    return AnswerStyle(
        max_tokens,
        sampling_of(body),
        bool(body.ignore_eos),
        frozenset(body.stop_token_ids or ()),
        stop_strings(body.stop),
        body.skip_special_tokens is not False,
        tenant,
        body.timeout,
    )


def sampling_of(body: GenerateBody) -> Sampling:
    """OpenAI's defaults. A seed of any sign becomes 64 bits, a missing one random. Raises InvalidRequest."""
    return Sampling(
        temperature=1.0 if body.temperature is None else body.temperature,
        top_p=1.0 if body.top_p is None else body.top_p,
        top_k=0 if body.top_k is None or body.top_k == -1 else body.top_k,
        seed=secrets.randbits(64) if body.seed is None else body.seed % 2**64,
        min_p=body.min_p or 0.0,
        repetition_penalty=1.0 if body.repetition_penalty is None else body.repetition_penalty,
        presence_penalty=body.presence_penalty or 0.0,
        frequency_penalty=body.frequency_penalty or 0.0,
        logit_bias=_logit_bias(body.logit_bias or {}),
        logprobs=body.num_logprobs,
        prompt_logprobs=body.scores_prompt,
        min_tokens=body.min_tokens or 0,
    )


def _logit_bias(biases: Mapping[str, float]) -> tuple[tuple[int, float], ...]:
    """JSON has only text for keys. Raises InvalidRequest."""
    for key in biases:
        if not _TOKEN_ID.fullmatch(key):
            raise InvalidRequest(f"logit_bias wants token ids as keys, not {key[:20]!r}", param="logit_bias")
    return tuple((int(key), bias) for key, bias in biases.items() if bias)


def make_job(model: TextModel, token_ids: Sequence[int], style: AnswerStyle, *, param: str) -> Job:
    """A prompt with its budget: what the context leaves, or `max_tokens` if that is less.

    `param` names the field that the prompt came in. Raises InvalidRequest, ContextLengthExceeded.
    """
    if not token_ids:
        raise InvalidRequest(f"{param} holds no tokens", param=param)
    room = model.context_length - len(token_ids)
    if room < 1:
        raise ContextLengthExceeded.of(
            num_prompt_tokens=len(token_ids), num_answer_tokens=1, context_length=model.context_length, param=param
        )
    max_tokens = room if style.max_tokens is None else max(1, min(room, style.max_tokens))
    if style.sampling.min_tokens > max_tokens:
        message = f"min_tokens must not be more than the {max_tokens} tokens that the answer may have"
        raise InvalidRequest(message, param="min_tokens")
    stop_token_ids = style.stop_token_ids | (frozenset[int]() if style.ignore_eos else model.stop_token_ids)
    late = tuple(sorted(stop_token_ids)) if style.sampling.min_tokens else ()
    request = AnswerRequest(
        token_ids=tuple(token_ids),
        max_tokens=max_tokens,
        sampling=replace(style.sampling, late_token_ids=late),
        stop_token_ids=stop_token_ids,
        tenant=style.tenant,
        timeout_s=style.timeout_s,
    )
    return Job(request, style.stops, style.skip_special, is_prompt_only=style.max_tokens == 0)
