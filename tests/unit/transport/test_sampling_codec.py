"""How tokens are drawn, and what is reported of them, over the wire."""

from __future__ import annotations

import pytest
from hypothesis import given, settings

from exo_lite.domain.errors import InvalidRequest
from exo_lite.domain.ids import Epoch
from exo_lite.domain.request import (
    MAX_LATE_TOKENS,
    MAX_LOGIT_BIASES,
    MAX_MIN_TOKENS,
    MAX_TOP_LOGPROBS,
    Logprobs,
    Sampling,
    Token,
)
from exo_lite.domain.step import Admission, SampledToken, Step, StepMessage, StepResult, num_kv_blocks
from exo_lite.transport import step_codec
from exo_lite.transport.sampling_codec import max_admission_bytes, sampling_from_proto, sampling_to_proto
from exo_lite.transport.v1 import worker_pb2
from tests.unit.transport.any_value import any_of


def over_the_wire(message):
    return type(message).FromString(message.SerializeToString())


@settings(max_examples=200, deadline=None)
@given(any_of(Sampling))
def test_every_sampling_comes_back_equal(sampling: Sampling):
    assert sampling_from_proto(over_the_wire(sampling_to_proto(sampling))) == sampling


def test_a_message_without_the_newer_fields_asks_for_nothing():
    message = worker_pb2.Sampling(temperature=0.5, top_p=1.0, seed=3)
    assert sampling_from_proto(message) == Sampling(0.5, seed=3)


@pytest.mark.parametrize(
    ("field", "value"), [("repetition_penalty", 0.0), ("min_p", float("nan")), ("logprobs", MAX_TOP_LOGPROBS + 1)]
)
def test_impossible_values_are_refused(field: str, value: float):
    message = sampling_to_proto(Sampling())
    setattr(message, field, value)
    with pytest.raises(InvalidRequest, match=field):
        sampling_from_proto(message)


@pytest.mark.parametrize("logprobs", [None, Logprobs(-0.5), Logprobs(-1.5, ((7, -0.25), (3, -1.5)))])
def test_logprobs_come_back_with_their_token(logprobs: Logprobs | None):
    token = Token(3, 7, "stop", logprobs)
    assert step_codec.token_from_proto(over_the_wire(step_codec.token_to_proto(token))) == token
    result = StepResult(Epoch(1), 2, (SampledToken(0, 7, logprobs), SampledToken(1, 8)), ())
    assert step_codec.result_from_proto(over_the_wire(step_codec.result_to_proto(result))) == result


def test_counted_tokens_travel_with_the_admission():
    admission = Admission(1, Sampling(repetition_penalty=1.2), (3, 5, 2**32 - 1), (5, 5))
    message = StepMessage(Step(Epoch(1), 0, (), (admission,)))
    assert step_codec.step_from_proto(over_the_wire(step_codec.step_to_proto(message))) == message


def test_no_admission_is_larger_than_reckoned_with():
    bias = tuple((2**32 - 1 - number, -100.0) for number in range(MAX_LOGIT_BIASES))
    late = (2**32 - 1,) * MAX_LATE_TOKENS
    numbers = (0.1, 0.1, 2**32 - 1, 2**64 - 1, 0.1, 1.1, 0.1, 0.1)
    sampling = Sampling(*numbers, bias, MAX_TOP_LOGPROBS, MAX_MIN_TOKENS, late)
    context_length = 300
    admission = Admission(255, sampling, (2**32 - 1,) * 200, (2**32 - 1,) * 100, (2**32 - 1,) * num_kv_blocks(300))
    step = Step(Epoch(2**64 - 1), 2**64 - 1, (), (admission,))
    size = step_codec.step_to_proto(StepMessage(step)).ByteSize()
    assert size <= max_admission_bytes(context_length)
    bare = StepMessage(step._replace(admissions=(Admission(255, Sampling()),)))
    assert step_codec.step_to_proto(bare).ByteSize() < 100
