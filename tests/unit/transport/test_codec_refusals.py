"""Messages that no sound peer sends are refused by name, before anything uses them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from google.protobuf.message import DecodeError, Message
from hypothesis import given, settings
from hypothesis import strategies as st

from exo_lite.domain.errors import ExoLiteError, InvalidRequest, InvalidShard, MalformedMessage, MalformedStep
from exo_lite.domain.heartbeat import RelayedStatus
from exo_lite.domain.ids import BootId, Epoch, ModelId, NodeId
from exo_lite.domain.load_options import LoadOptions, LoadRequest
from exo_lite.domain.model_spec import ModelSpec
from exo_lite.domain.node import PROTOCOL_VERSION, Device, MemoryUse, NodeIdentity, NodeStatus, ShardStatus
from exo_lite.domain.placement import Instance, Placement
from exo_lite.domain.plan import Assignment
from exo_lite.domain.request import Sampling, Token
from exo_lite.domain.shard import Shard
from exo_lite.domain.step import Admission, HiddenStates, SequenceChunk, Step, StepFailure, StepMessage, StepResult
from exo_lite.domain.worker_report import WorkerReport
from exo_lite.transport import cluster_codec, step_codec
from exo_lite.transport.v1 import cluster_pb2, node_pb2, worker_pb2
from tests.unit.transport.codec_pairs import each_pair

SHARD = Shard(ModelId("m"), 0, 1, 2)
SPEC = ModelSpec("llama", 2, 8, 16, 2, 1, 4, 32, 64)
SHARD_STATUS = ShardStatus(SHARD, Epoch(1), 1, 2, 3, WorkerReport("ready", 1.0, Epoch(1)))
IDENTITY = NodeIdentity(NodeId("a"), BootId("b"), "n", "c", "1", PROTOCOL_VERSION, ("127.0.0.1:1",), "127.0.0.1:2")
STATUS = NodeStatus(IDENTITY, 1, Device("cpu", "x", 1), MemoryUse(1), (SHARD_STATUS,))
INSTANCE = Instance(
    model_id=ModelId("m"),
    fingerprint="f",
    spec=SPEC,
    epoch=Epoch(1),
    options=LoadOptions("float32"),
    assignments=(Assignment(NodeId("a"), "n", SHARD, 1, 2, 3),),
    state="ready",
)
PLACEMENT = Placement(NodeId("a"), Epoch(1), 0, (INSTANCE,))
STEP = StepMessage(
    Step(Epoch(1), 0, (SequenceChunk(0, 0, 2),), (Admission(0, Sampling()),)),
    HiddenStates("bfloat16", 2, 4, bytes(16)),
)


def _place_message() -> node_pb2.PlaceRequest:
    return cluster_codec.load_request_to_proto(ModelId("m"), LoadRequest())


WORDS: list[tuple[str, Callable[[], Any], Callable[[Any], object]]] = [
    ("report.state", lambda: cluster_codec.shard_status_to_proto(SHARD_STATUS), cluster_codec.shard_status_from_proto),
    ("model_type", lambda: cluster_codec.spec_to_proto(SPEC), cluster_codec.spec_from_proto),
    ("dtype", lambda: cluster_codec.spec_to_proto(SPEC), cluster_codec.spec_from_proto),
    ("rope_scaling.rope_type", lambda: cluster_codec.spec_to_proto(SPEC), cluster_codec.spec_from_proto),
    ("state", lambda: cluster_codec.instance_to_proto(INSTANCE), cluster_codec.instance_from_proto),
    ("options.dtype", lambda: cluster_codec.instance_to_proto(INSTANCE), cluster_codec.instance_from_proto),
    ("options.quant", lambda: cluster_codec.instance_to_proto(INSTANCE), cluster_codec.instance_from_proto),
    ("options.strategy", lambda: cluster_codec.instance_to_proto(INSTANCE), cluster_codec.instance_from_proto),
    ("options.dtype", _place_message, cluster_codec.load_request_from_proto),
    ("options.quant", _place_message, cluster_codec.load_request_from_proto),
    ("options.strategy", _place_message, cluster_codec.load_request_from_proto),
    ("finish_reason", lambda: step_codec.token_to_proto(Token(0, 1, "stop")), step_codec.token_from_proto),
]


@pytest.mark.parametrize("word", ["nonsense", ""])
@pytest.mark.parametrize(
    ("path", "make", "decode"), WORDS, ids=[f"{index}-{one[0]}" for index, one in enumerate(WORDS)]
)
def test_unknown_words_are_refused(path: str, make: Callable[[], Message], decode: Callable[[Any], object], word: str):
    message = make()
    *parents, last = path.split(".")
    target: object = message
    for name in parents:
        target = getattr(target, name)
    setattr(target, last, word)
    with pytest.raises(MalformedMessage, match="same version"):
        decode(message)


@pytest.mark.parametrize(
    ("field", "value"),
    [("data", bytes(15)), ("data", bytes(17)), ("data", b""), ("num_tokens", 3), ("hidden_size", 2**32 - 1)],
)
def test_hidden_states_that_are_not_what_they_say_are_refused(field: str, value: object):
    message = step_codec.step_to_proto(STEP)
    setattr(message.hidden_states, field, value)
    with pytest.raises(MalformedStep, match=r"take \d+ bytes, got"):
        step_codec.step_from_proto(message)


def test_another_type_of_the_same_message_has_another_size():
    message = step_codec.step_to_proto(STEP)
    message.hidden_states.dtype = worker_pb2.DTYPE_FLOAT32
    with pytest.raises(MalformedStep, match="float32 take 32 bytes, got 16"):
        step_codec.step_from_proto(message)


@pytest.mark.parametrize("number", [0, 4, 99])
def test_a_type_that_is_not_on_the_list_is_refused(number: int):
    message = step_codec.step_to_proto(STEP)
    message.hidden_states.dtype = worker_pb2.DType.ValueType(number)
    with pytest.raises(MalformedStep, match=f"dtype number {number}"):
        step_codec.step_from_proto(message)


def test_impossible_shards_samplings_and_ids_are_refused():
    with pytest.raises(InvalidShard):
        cluster_codec.shard_from_proto(cluster_pb2.Shard(model_id="m", start_layer=3, end_layer=2, n_layers=4))
    with pytest.raises(InvalidRequest):
        cluster_codec.shard_from_proto(cluster_pb2.Shard(model_id="../m", end_layer=1, n_layers=2))
    message = step_codec.step_to_proto(STEP)
    message.admissions[0].sampling.temperature = float("nan")
    with pytest.raises(InvalidRequest, match="temperature"):
        step_codec.step_from_proto(message)


def test_unset_optionals_are_none_and_not_zero():
    status = cluster_codec.shard_status_from_proto(cluster_codec.shard_status_to_proto(SHARD_STATUS))
    assert (status.report.compute_ms, status.report.failure, status.driver, status.end) == (None, None, None, None)
    assert (status.worker_port, status.stream_port) == (None, None)
    assert step_codec.token_from_proto(worker_pb2.Token(index=1, token_id=2)).finish_reason is None
    bare = step_codec.step_from_proto(worker_pb2.StepMessage(epoch=1, chunks=[worker_pb2.SequenceChunk(num_tokens=1)]))
    assert (bare.hidden_states, bare.failure, bare.step.chunks[0].sample_index) == (None, None, None)


def test_an_option_that_came_later_has_its_default_and_the_compute_type_has_none():
    message = cluster_codec.instance_to_proto(INSTANCE)
    message.options.ClearField("prefix_cache")
    assert cluster_codec.instance_from_proto(message) == INSTANCE
    message.options.ClearField("dtype")
    with pytest.raises(MalformedMessage, match=r"LoadOptions\.dtype is missing"):
        cluster_codec.instance_from_proto(message)


def test_a_failure_of_a_newer_version_is_an_error_all_the_same():
    result = StepResult(Epoch(1), 0, (), (), StepFailure("invented_later", "why"))
    failure = step_codec.result_from_proto(step_codec.result_to_proto(result)).failure
    assert failure is not None
    assert (type(failure.error), str(failure.error)) == (ExoLiteError, "why")


@each_pair
@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_damaged_messages_raise_errors_of_ours_and_no_others(
    values: st.SearchStrategy[Any],
    to_proto: Callable[[Any], Message],
    from_proto: Callable[[Any], Any],
    data: st.DataObject,
):
    """Each message is damaged before its own decoder reads it: another's would refuse nearly every one as a whole."""
    sound = to_proto(data.draw(values))
    damaged = bytearray(sound.SerializeToString())
    for place in data.draw(st.lists(st.integers(0, max(0, len(damaged) - 1)), max_size=4)):
        damaged[place : place + 1] = bytes([data.draw(st.integers(0, 255))])
    with suppress(ExoLiteError, DecodeError):  # gRPC itself refuses what is no message of the type
        from_proto(type(sound).FromString(bytes(damaged)))


@pytest.mark.parametrize("age_s", [-1.0, float("nan")])
def test_words_from_the_future_are_refused(age_s: float):
    """They would keep a dead node alive."""
    message = node_pb2.HeartbeatMessage(status=cluster_codec.node_status_to_proto(STATUS))
    message.relayed.add(status=message.status, age_s=age_s)
    with pytest.raises(MalformedMessage, match="relayed status"):
        cluster_codec.heartbeat_from_proto(message)
    message.relayed[0].age_s = 0.5
    assert cluster_codec.heartbeat_from_proto(message).relayed == (RelayedStatus(STATUS, 0.5),)


def test_timings_of_half_a_stage_are_refused():
    message = step_codec.step_to_proto(STEP)
    message.timings_ms.extend([0.1, 2.0])
    with pytest.raises(MalformedStep, match="3 numbers a stage"):
        step_codec.step_from_proto(message)
