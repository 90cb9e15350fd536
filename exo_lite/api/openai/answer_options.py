"""Reads the neutral options out of a body's sampling and stop parameters. Pure but for the random seed."""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping

from exo_lite.api.openai.request_bodies import GenerateBody
from exo_lite.domain.chat import AnswerOptions
from exo_lite.domain.errors import InvalidRequest
from exo_lite.domain.request import Sampling

MAX_STOPS = 64
MAX_STOP_CHARS = 1024

_TOKEN_ID = re.compile(r"[0-9]{1,9}")


def answer_options(body: GenerateBody, tenant: str, *, max_tokens: int | None) -> AnswerOptions:
    """Raises InvalidRequest naming the parameter at fault."""
    return AnswerOptions(
        body.model,
        sampling_of(body),
        max_tokens,
        num_answers=body.n or 1,
        ignore_eos=bool(body.ignore_eos),
        stop_token_ids=frozenset(body.stop_token_ids or ()),
        stops=stop_strings(body.stop),
        skip_special=body.skip_special_tokens is not False,
        tenant=tenant,
        timeout_s=body.timeout,
        keep_alive_s=body.keep_alive_s,
    )


def sampling_of(body: GenerateBody) -> Sampling:
    """Fill in OpenAI's defaults. A seed of any sign becomes 64 bits, a missing one random. Raises InvalidRequest."""
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
    """Read token ids from the keys, for which JSON has only text. Raises InvalidRequest."""
    for key in biases:
        if not _TOKEN_ID.fullmatch(key):
            raise InvalidRequest(f"logit_bias wants token ids as keys, not {key[:20]!r}", param="logit_bias")
    return tuple((int(key), bias) for key, bias in biases.items() if bias)


def stop_strings(stop: str | list[str] | None) -> tuple[str, ...]:
    """Empty ones dropped. Raises InvalidRequest."""
    stops = tuple(one for one in ([stop] if isinstance(stop, str) else stop or []) if one)
    if len(stops) > MAX_STOPS or any(len(one) > MAX_STOP_CHARS for one in stops):
        limit = f"at most {MAX_STOPS} stop strings of at most {MAX_STOP_CHARS} characters"
        raise InvalidRequest(f"stop takes {limit}", param="stop")
    return stops
