"""domain ↔ protobuf for requests, steps and sampled tokens.

Steps and results are written field by field, and read by position: between computations nothing of this code is in the
caches, and keywords and copies of parts took a third of its time.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import get_args

from exo_lite.domain.errors import MalformedStep
from exo_lite.domain.ids import Epoch, ModelId, RequestId
from exo_lite.domain.model_spec import DType
from exo_lite.domain.request import AnswerRequest, FinishReason, GenerateRequest, Token
from exo_lite.domain.step import (
    Admission,
    HiddenStates,
    PromptScores,
    SampledToken,
    SequenceChunk,
    StageTiming,
    Step,
    StepFailure,
    StepMessage,
    StepResult,
)
from exo_lite.domain.trace import RequestTrace, StepTrace
from exo_lite.transport.literals import read_literal
from exo_lite.transport.sampling_codec import (
    logprobs_from_proto,
    logprobs_to_proto,
    sampling_from_proto,
    sampling_to_proto,
    scores_from_proto,
    scores_to_proto,
)
from exo_lite.transport.v1 import worker_pb2

_FINISH_REASONS: tuple[FinishReason, ...] = get_args(FinishReason)
_DTYPES: tuple[tuple[DType, worker_pb2.DType.ValueType], ...] = (
    ("float32", worker_pb2.DTYPE_FLOAT32),
    ("bfloat16", worker_pb2.DTYPE_BFLOAT16),
    ("float16", worker_pb2.DTYPE_FLOAT16),
)
_DTYPE_TO_PROTO = dict(_DTYPES)
_DTYPE_FROM_PROTO = {number: dtype for dtype, number in _DTYPES}


def request_to_proto(request: GenerateRequest) -> worker_pb2.GenerateRequest:
    return worker_pb2.GenerateRequest(
        request_id=request.request_id,
        model_id=request.model_id,
        epoch=request.epoch,
        attempt=request.attempt,
        token_ids=request.asked.token_ids,
        max_tokens=request.asked.max_tokens,
        sampling=sampling_to_proto(request.asked.sampling),
        stop_token_ids=sorted(request.asked.stop_token_ids),
        tenant=request.asked.tenant,
        timeout_s=request.asked.timeout_s,
        answer_token_ids=request.answer_token_ids,
    )


def request_from_proto(message: worker_pb2.GenerateRequest) -> GenerateRequest:
    """Raises InvalidRequest."""
    return GenerateRequest(
        request_id=RequestId(message.request_id),
        model_id=ModelId(message.model_id),
        epoch=Epoch(message.epoch),
        attempt=message.attempt,
        asked=AnswerRequest(
            token_ids=tuple(message.token_ids),
            max_tokens=message.max_tokens,
            sampling=sampling_from_proto(message.sampling),
            stop_token_ids=frozenset(message.stop_token_ids),
            tenant=message.tenant,
            timeout_s=message.timeout_s if message.HasField("timeout_s") else None,
        ),
        answer_token_ids=tuple(message.answer_token_ids),
    )


def token_to_proto(token: Token) -> worker_pb2.Token:
    return worker_pb2.Token(
        index=token.index,
        token_id=token.token_id,
        finish_reason=token.finish_reason,
        logprobs=logprobs_to_proto(token.logprobs),
        num_cached_tokens=token.num_cached_tokens,
        prompt_logprobs=scores_to_proto(token.prompt_logprobs),
    )


def token_from_proto(message: worker_pb2.Token) -> Token:
    """Raises MalformedMessage."""
    reason = read_literal(message.finish_reason, _FINISH_REASONS) if message.HasField("finish_reason") else None
    return Token(
        message.index,
        message.token_id,
        reason,
        logprobs_from_proto(message),
        message.num_cached_tokens,
        scores_from_proto(message.prompt_logprobs),
    )


def step_to_proto(message: StepMessage) -> worker_pb2.StepMessage:
    """Chunks leave their token ids behind: past the embedding nobody needs them, and they are somebody's words."""
    step = message.step
    proto = worker_pb2.StepMessage(epoch=step.epoch, step_id=step.step_id, sent_at_s=message.sent_at_s)
    for index, position, num_tokens, _, sample_index, proposed_token_ids, scored_token_ids in step.chunks:
        proto.chunks.add(
            sequence_index=index,
            position=position,
            num_tokens=num_tokens,
            sample_index=sample_index,
            proposed_token_ids=proposed_token_ids,
            scored_token_ids=scored_token_ids,
        )
    for admission in step.admissions:
        proto.admissions.append(_admission_to_proto(admission))
    if message.hidden_states is not None:
        _write_hidden_states(message.hidden_states, proto.hidden_states)
    proto.timings_ms.extend(chain.from_iterable(message.timings))
    _write_failure(message.failure, proto)
    return proto


def step_from_proto(message: worker_pb2.StepMessage) -> StepMessage:
    """Raises MalformedStep where the tensor is not what it says, InvalidRequest for impossible sampling."""
    chunks = tuple(map(_chunk_from_proto, message.chunks))
    admissions = tuple(map(_admission_from_proto, message.admissions))
    hidden_states = _hidden_states_from_proto(message.hidden_states) if message.HasField("hidden_states") else None
    timings = _timings_from(message.timings_ms)
    step = Step(Epoch(message.epoch), message.step_id, chunks, admissions)
    return StepMessage(step, hidden_states, timings, _failure_from_proto(message), message.sent_at_s)


def _chunk_from_proto(message: worker_pb2.SequenceChunk) -> SequenceChunk:
    sample_index = message.sample_index if message.HasField("sample_index") else None
    proposed, scored = tuple(message.proposed_token_ids), tuple(message.scored_token_ids)
    return SequenceChunk(
        message.sequence_index, message.position, message.num_tokens, (), sample_index, proposed, scored
    )


def _admission_to_proto(admission: Admission) -> worker_pb2.Admission:
    return worker_pb2.Admission(
        sequence_index=admission.sequence_index,
        sampling=sampling_to_proto(admission.sampling),
        blocks=admission.blocks,
        prompt_token_ids=admission.prompt_token_ids,
        answer_token_ids=admission.answer_token_ids,
        num_cached_tokens=admission.num_cached_tokens,
    )


def _admission_from_proto(message: worker_pb2.Admission) -> Admission:
    return Admission(
        sequence_index=message.sequence_index,
        sampling=sampling_from_proto(message.sampling),
        blocks=tuple(message.blocks),
        prompt_token_ids=tuple(message.prompt_token_ids),
        answer_token_ids=tuple(message.answer_token_ids),
        num_cached_tokens=message.num_cached_tokens,
    )


def result_to_proto(result: StepResult) -> worker_pb2.StepResult:
    proto = worker_pb2.StepResult(epoch=result.epoch, step_id=result.step_id)
    for index, token_id, logprobs in result.tokens:
        proto.tokens.add(sequence_index=index, token_id=token_id, logprobs=logprobs_to_proto(logprobs))
    for index, scores in result.scores:
        proto.scores.add(sequence_index=index, logprobs=scores_to_proto(scores))
    proto.timings_ms.extend(chain.from_iterable(result.timings))
    _write_failure(result.failure, proto)
    return proto


def result_from_proto(message: worker_pb2.StepResult) -> StepResult:
    tokens = tuple(map(_sampled_from_proto, message.tokens))
    timings = _timings_from(message.timings_ms)
    scores = tuple(PromptScores(one.sequence_index, scores_from_proto(one.logprobs)) for one in message.scores)
    return StepResult(Epoch(message.epoch), message.step_id, tokens, timings, _failure_from_proto(message), scores)


def _sampled_from_proto(message: worker_pb2.SampledToken) -> SampledToken:
    return SampledToken(message.sequence_index, message.token_id, logprobs_from_proto(message))


def _write_hidden_states(hidden_states: HiddenStates, to: worker_pb2.HiddenStates) -> None:
    to.dtype = _DTYPE_TO_PROTO[hidden_states.dtype]
    to.num_tokens = hidden_states.num_tokens
    to.hidden_size = hidden_states.hidden_size
    to.data = hidden_states.data


def _hidden_states_from_proto(message: worker_pb2.HiddenStates) -> HiddenStates:
    dtype = _DTYPE_FROM_PROTO.get(message.dtype)
    if dtype is None:
        raise MalformedStep(f"hidden states have dtype number {message.dtype}, which is none of {_DTYPE_FROM_PROTO}")
    return HiddenStates(dtype, message.num_tokens, message.hidden_size, message.data)


def trace_to_proto(trace: RequestTrace) -> worker_pb2.RequestTrace:
    proto = worker_pb2.RequestTrace(age_s=trace.age_s)
    for step in trace.steps:
        to = proto.steps.add(start_ms=step.start_ms, duration_ms=step.duration_ms, num_tokens=step.num_tokens)
        to.timings_ms.extend(chain.from_iterable(step.stages))
    return proto


def trace_from_proto(message: worker_pb2.RequestTrace) -> RequestTrace:
    steps = tuple(
        StepTrace(step.start_ms, step.duration_ms, step.num_tokens, _timings_from(step.timings_ms))
        for step in message.steps
    )
    return RequestTrace(message.age_s, steps)


def _timings_from(values_ms: Sequence[float]) -> tuple[StageTiming, ...]:
    """Three numbers of each stage. Raises MalformedStep where some are missing."""
    if len(values_ms) % 3:
        raise MalformedStep(f"timings have 3 numbers a stage: {len(values_ms)} are too few or too many")
    return tuple(map(StageTiming, values_ms[::3], values_ms[1::3], values_ms[2::3]))


def _write_failure(failure: StepFailure | None, to: worker_pb2.StepMessage | worker_pb2.StepResult) -> None:
    if failure is not None:
        to.failure.code, to.failure.message = failure.code, failure.message


def _failure_from_proto(message: worker_pb2.StepMessage | worker_pb2.StepResult) -> StepFailure | None:
    return StepFailure(message.failure.code, message.failure.message) if message.HasField("failure") else None
