"""Plans the answers to prompts: their budget, their seeds, what ends them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from exo_lite.api.daemon_api import TextModel
from exo_lite.api.prompts import Prompt
from exo_lite.domain.chat import AnswerOptions
from exo_lite.domain.errors import InvalidRequest
from exo_lite.domain.request import AnswerRequest


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


def make_jobs(model: TextModel, prompts: Sequence[Prompt], options: AnswerOptions) -> list[Job]:
    """Plan `num_answers` jobs for each prompt, side by side. Raises InvalidRequest.

    Their seeds count up: answer i is what the seed + i gives by itself.
    """
    firsts = [_job(model, prompt, options) for prompt in prompts]
    count = options.num_answers
    return [_repetition(job, index, number, count) for index, job in enumerate(firsts) for number in range(count)]


def _repetition(job: Job, index: int, number: int, count: int) -> Job:
    sampling = replace(job.request.sampling, seed=(job.request.sampling.seed + number) % 2**64)
    return replace(job, request=replace(job.request, sampling=sampling), after=index * count if number else None)


def _job(model: TextModel, prompt: Prompt, options: AnswerOptions) -> Job:
    """A prompt with its budget: what the context leaves, or `max_tokens` if that is less. Raises InvalidRequest."""
    num_left = model.context_length - len(prompt.token_ids)
    max_tokens = num_left if options.max_tokens is None else max(1, min(num_left, options.max_tokens))
    if options.sampling.min_tokens > max_tokens:
        message = f"min_tokens must not be more than the {max_tokens} tokens that the answer may have"
        raise InvalidRequest(message, param="min_tokens")
    stop_token_ids = options.stop_token_ids | (frozenset[int]() if options.ignore_eos else model.stop_token_ids)
    late = tuple(sorted(stop_token_ids)) if options.sampling.min_tokens else ()
    request = AnswerRequest(
        prompt.token_ids,
        max_tokens,
        replace(options.sampling, late_token_ids=late),
        stop_token_ids,
        tenant=options.tenant,
        timeout_s=options.timeout_s,
    )
    return Job(request, options.stops, options.skip_special, is_prompt_only=options.max_tokens == 0)
