"""domain ↔ protobuf for requests, steps and sampled tokens."""

from __future__ import annotations

from collections.abc import Iterable

from exo_lite.domain.errors import MalformedStep
from exo_lite.domain.ids import Epoch, ModelId, RequestId
from exo_lite.domain.model_spec import DType
from exo_lite.domain.request import GenerateRequest, Token
from exo_lite.domain.step import (
    Admission,
    HiddenStates,
    SampledToken,
    SequenceChunk,
    StageTiming,
    Step,
    StepFailure,
    StepMessage,
    StepResult,
)
from exo_lite.domain.trace import RequestTrace, StepTrace
from exo_lite.transport.sampling_codec import (
    logprobs_from_proto,
    logprobs_to_proto,
    sampling_from_proto,
    sampling_to_proto,
)
from exo_lite.transport.v1 import worker_pb2
from exo_lite.transport.words import FINISH_REASONS, read_word

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
        token_ids=request.token_ids,
        max_tokens=request.max_tokens,
        sampling=sampling_to_proto(request.sampling),
        stop_token_ids=sorted(request.stop_token_ids),
        tenant=request.tenant,
        timeout_s=request.timeout_s,
    )


def request_from_proto(message: worker_pb2.GenerateRequest) -> GenerateRequest:
    """Raises InvalidRequest."""
    return GenerateRequest(
        request_id=RequestId(message.request_id),
        model_id=ModelId(message.model_id),
        epoch=Epoch(message.epoch),
        attempt=message.attempt,
        token_ids=tuple(message.token_ids),
        max_tokens=message.max_tokens,
        sampling=sampling_from_proto(message.sampling),
        stop_token_ids=frozenset(message.stop_token_ids),
        tenant=message.tenant,
        timeout_s=message.timeout_s if message.HasField("timeout_s") else None,
    )


def token_to_proto(token: Token) -> worker_pb2.Token:
    return worker_pb2.Token(
        index=token.index,
        token_id=token.token_id,
        finish_reason=token.finish_reason,
        logprobs=logprobs_to_proto(token.logprobs),
        num_cached_tokens=token.num_cached_tokens,
    )


def token_from_proto(message: worker_pb2.Token) -> Token:
    """Raises MalformedMessage."""
    reason = read_word(message.finish_reason, FINISH_REASONS) if message.HasField("finish_reason") else None
    return Token(message.index, message.token_id, reason, logprobs_from_proto(message), message.num_cached_tokens)


def step_to_proto(message: StepMessage) -> worker_pb2.StepMessage:
    """Chunks leave their token ids behind: past the embedding nobody needs them, and they are somebody's words."""
    step = message.step
    return worker_pb2.StepMessage(
        epoch=step.epoch,
        step_id=step.step_id,
        chunks=[
            worker_pb2.SequenceChunk(
                slot=chunk.slot,
                position=chunk.position,
                num_tokens=chunk.num_tokens,
                sample_index=chunk.sample_index,
                proposed_token_ids=chunk.proposed_token_ids,
            )
            for chunk in step.chunks
        ],
        admissions=[_admission_to_proto(one) for one in step.admissions],
        hidden_states=_hidden_states_to_proto(message.hidden_states) if message.hidden_states else None,
        timings=_timings_to_proto(message.timings),
        failure=_failure_to_proto(message.failure),
        sent_at_s=message.sent_at_s,
    )


def step_from_proto(message: worker_pb2.StepMessage) -> StepMessage:
    """Raises MalformedStep where the tensor is not what it says, InvalidRequest for impossible sampling."""
    chunks = tuple(
        SequenceChunk(
            slot=chunk.slot,
            position=chunk.position,
            num_tokens=chunk.num_tokens,
            sample_index=chunk.sample_index if chunk.HasField("sample_index") else None,
            proposed_token_ids=tuple(chunk.proposed_token_ids),
        )
        for chunk in message.chunks
    )
    admissions = tuple(_admission_from_proto(one) for one in message.admissions)
    hidden_states = _hidden_states_from_proto(message.hidden_states) if message.HasField("hidden_states") else None
    return StepMessage(
        step=Step(Epoch(message.epoch), message.step_id, chunks, admissions),
        hidden_states=hidden_states,
        timings=_timings_from_proto(message.timings),
        failure=_failure_from_proto(message),
        sent_at_s=message.sent_at_s,
    )


def _admission_to_proto(admission: Admission) -> worker_pb2.Admission:
    return worker_pb2.Admission(
        slot=admission.slot,
        sampling=sampling_to_proto(admission.sampling),
        blocks=admission.blocks,
        prompt_token_ids=admission.prompt_token_ids,
        answer_token_ids=admission.answer_token_ids,
        num_cached_tokens=admission.num_cached_tokens,
    )


def _admission_from_proto(message: worker_pb2.Admission) -> Admission:
    return Admission(
        slot=message.slot,
        sampling=sampling_from_proto(message.sampling),
        blocks=tuple(message.blocks),
        prompt_token_ids=tuple(message.prompt_token_ids),
        answer_token_ids=tuple(message.answer_token_ids),
        num_cached_tokens=message.num_cached_tokens,
    )


def result_to_proto(result: StepResult) -> worker_pb2.StepResult:
    return worker_pb2.StepResult(
        epoch=result.epoch,
        step_id=result.step_id,
        tokens=[
            worker_pb2.SampledToken(slot=one.slot, token_id=one.token_id, logprobs=logprobs_to_proto(one.logprobs))
            for one in result.tokens
        ],
        timings=_timings_to_proto(result.timings),
        failure=_failure_to_proto(result.failure),
    )


def result_from_proto(message: worker_pb2.StepResult) -> StepResult:
    return StepResult(
        epoch=Epoch(message.epoch),
        step_id=message.step_id,
        tokens=tuple(SampledToken(one.slot, one.token_id, logprobs_from_proto(one)) for one in message.tokens),
        timings=_timings_from_proto(message.timings),
        failure=_failure_from_proto(message),
    )


def _hidden_states_to_proto(hidden_states: HiddenStates) -> worker_pb2.HiddenStates:
    return worker_pb2.HiddenStates(
        dtype=_DTYPE_TO_PROTO[hidden_states.dtype],
        num_tokens=hidden_states.num_tokens,
        hidden_size=hidden_states.hidden_size,
        data=hidden_states.data,
    )


def _hidden_states_from_proto(message: worker_pb2.HiddenStates) -> HiddenStates:
    dtype = _DTYPE_FROM_PROTO.get(message.dtype)
    if dtype is None:
        raise MalformedStep(f"hidden states have dtype number {message.dtype}, which is none of {_DTYPE_FROM_PROTO}")
    return HiddenStates(dtype, message.num_tokens, message.hidden_size, message.data)


def trace_to_proto(trace: RequestTrace) -> worker_pb2.RequestTrace:
    steps = [
        worker_pb2.StepTrace(
            start_ms=step.start_ms,
            duration_ms=step.duration_ms,
            num_tokens=step.num_tokens,
            stages=_timings_to_proto(step.stages),
        )
        for step in trace.steps
    ]
    return worker_pb2.RequestTrace(age_s=trace.age_s, steps=steps)


def trace_from_proto(message: worker_pb2.RequestTrace) -> RequestTrace:
    steps = tuple(
        StepTrace(step.start_ms, step.duration_ms, step.num_tokens, _timings_from_proto(step.stages))
        for step in message.steps
    )
    return RequestTrace(message.age_s, steps)


def _timings_to_proto(timings: tuple[StageTiming, ...]) -> list[worker_pb2.StageTiming]:
    return [
        worker_pb2.StageTiming(queue_ms=one.queue_ms, compute_ms=one.compute_ms, serialize_ms=one.serialize_ms)
        for one in timings
    ]


def _timings_from_proto(messages: Iterable[worker_pb2.StageTiming]) -> tuple[StageTiming, ...]:
    return tuple(StageTiming(one.queue_ms, one.compute_ms, one.serialize_ms) for one in messages)


def _failure_to_proto(failure: StepFailure | None) -> worker_pb2.Failure | None:
    return worker_pb2.Failure(code=failure.code, message=failure.message) if failure else None


def _failure_from_proto(message: worker_pb2.StepMessage | worker_pb2.StepResult) -> StepFailure | None:
    return StepFailure(message.failure.code, message.failure.message) if message.HasField("failure") else None
