"""domain ↔ protobuf for how tokens are drawn and what is reported of them."""

from __future__ import annotations

from collections.abc import Iterable

from exo_lite.domain.request import MAX_LATE_TOKENS, MAX_LOGIT_BIASES, MAX_TOP_LOGPROBS, Logprobs, Sampling
from exo_lite.domain.step import num_kv_blocks
from exo_lite.transport.v1 import worker_pb2

NUMBER_BYTES = 5
LOGIT_BIAS_BYTES = 32
ADMISSION_OVERHEAD_BYTES = 256
MAX_SCORE_BYTES = 16 + 24 * MAX_TOP_LOGPROBS
"""Bytes of one prompt token's log probabilities, with the likeliest tokens."""


def max_admission_bytes(context_length: int) -> int:
    """Return the size of the largest admission: every token of a sequence, its blocks, the longest logit_bias, all
    tokens that may end it.
    """
    num_numbers = context_length + num_kv_blocks(context_length) + MAX_LATE_TOKENS
    return num_numbers * NUMBER_BYTES + MAX_LOGIT_BIASES * LOGIT_BIAS_BYTES + ADMISSION_OVERHEAD_BYTES


def sampling_to_proto(sampling: Sampling) -> worker_pb2.Sampling:
    return worker_pb2.Sampling(
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=sampling.top_k,
        seed=sampling.seed,
        min_p=sampling.min_p,
        repetition_penalty=sampling.repetition_penalty,
        presence_penalty=sampling.presence_penalty,
        frequency_penalty=sampling.frequency_penalty,
        logit_bias=[worker_pb2.LogitBias(token_id=token_id, bias=bias) for token_id, bias in sampling.logit_bias],
        logprobs=sampling.logprobs,
        prompt_logprobs=sampling.prompt_logprobs,
        min_tokens=sampling.min_tokens,
        late_token_ids=sampling.late_token_ids,
    )


def sampling_from_proto(message: worker_pb2.Sampling) -> Sampling:
    """Raises InvalidRequest."""
    return Sampling(
        temperature=message.temperature,
        top_p=message.top_p,
        top_k=message.top_k,
        seed=message.seed,
        min_p=message.min_p,
        repetition_penalty=message.repetition_penalty if message.HasField("repetition_penalty") else 1.0,
        presence_penalty=message.presence_penalty,
        frequency_penalty=message.frequency_penalty,
        logit_bias=tuple((one.token_id, one.bias) for one in message.logit_bias),
        logprobs=message.logprobs if message.HasField("logprobs") else None,
        prompt_logprobs=message.prompt_logprobs,
        min_tokens=message.min_tokens,
        late_token_ids=tuple(message.late_token_ids),
    )


def logprobs_to_proto(logprobs: Logprobs | None) -> worker_pb2.Logprobs | None:
    if logprobs is None:
        return None
    top = [worker_pb2.TokenLogprob(token_id=token_id, logprob=logprob) for token_id, logprob in logprobs.top]
    return worker_pb2.Logprobs(chosen=logprobs.chosen, top=top)


def logprobs_from_proto(message: worker_pb2.Token | worker_pb2.SampledToken) -> Logprobs | None:
    """Read the log probabilities of a token that may carry them."""
    return one_from_proto(message.logprobs) if message.HasField("logprobs") else None


def one_from_proto(message: worker_pb2.Logprobs) -> Logprobs:
    return Logprobs(message.chosen, tuple((one.token_id, one.logprob) for one in message.top))


def scores_to_proto(logprobs: Iterable[Logprobs]) -> list[worker_pb2.Logprobs]:
    return [proto for one in logprobs if (proto := logprobs_to_proto(one)) is not None]


def scores_from_proto(messages: Iterable[worker_pb2.Logprobs]) -> tuple[Logprobs, ...]:
    return tuple(map(one_from_proto, messages))
