"""What goes onto the wire comes off it unchanged, through real bytes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from google.protobuf.message import Message
from hypothesis import given, settings
from hypothesis import strategies as st

from exo_lite.domain.heartbeat import Heartbeat
from exo_lite.domain.ids import Epoch, ModelId
from exo_lite.domain.model_spec import ModelSpec
from exo_lite.domain.node import NodeIdentity, NodeStatus, ShardStatus
from exo_lite.domain.pipeline import ConnectOrder
from exo_lite.domain.placement import Instance, ModelDescription, Placement
from exo_lite.domain.plan import LoadWish
from exo_lite.domain.request import GenerateRequest, Token
from exo_lite.domain.shard import Shard
from exo_lite.domain.step import HiddenStates, SequenceChunk, Step, StepMessage, StepResult
from exo_lite.domain.trace import RequestTrace
from exo_lite.transport import cluster_codec, step_codec
from tests.unit.transport.any_value import MODEL_IDS, any_of

PAIRS = [
    (Shard, cluster_codec.shard_to_proto, cluster_codec.shard_from_proto),
    (NodeIdentity, cluster_codec.identity_to_proto, cluster_codec.identity_from_proto),
    (ShardStatus, cluster_codec.shard_status_to_proto, cluster_codec.shard_status_from_proto),
    (NodeStatus, cluster_codec.node_status_to_proto, cluster_codec.node_status_from_proto),
    (ModelSpec, cluster_codec.spec_to_proto, cluster_codec.spec_from_proto),
    (ModelDescription, cluster_codec.description_to_proto, cluster_codec.description_from_proto),
    (Instance, cluster_codec.instance_to_proto, cluster_codec.instance_from_proto),
    (Placement, cluster_codec.placement_to_proto, cluster_codec.placement_from_proto),
    (ConnectOrder, cluster_codec.order_to_proto, cluster_codec.order_from_proto),
    (GenerateRequest, step_codec.request_to_proto, step_codec.request_from_proto),
    (Token, step_codec.token_to_proto, step_codec.token_from_proto),
    (StepMessage, step_codec.step_to_proto, step_codec.step_from_proto),
    (RequestTrace, step_codec.trace_to_proto, step_codec.trace_from_proto),
    (StepResult, step_codec.result_to_proto, step_codec.result_from_proto),
]


def over_the_wire(message: Message) -> Any:
    return type(message).FromString(message.SerializeToString())


@pytest.mark.parametrize(
    ("cls", "to_proto", "from_proto"), [pytest.param(*pair, id=pair[0].__name__) for pair in PAIRS]
)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_every_value_comes_back_equal(
    cls: type, to_proto: Callable[[Any], Message], from_proto: Callable[[Any], Any], data: st.DataObject
):
    value = data.draw(any_of(cls))
    assert from_proto(over_the_wire(to_proto(value))) == value


@settings(max_examples=60, deadline=None)
@given(heartbeat=any_of(Heartbeat))
def test_heartbeats_come_back_equal_with_and_without_a_placement(heartbeat: Heartbeat):
    message = over_the_wire(cluster_codec.heartbeat_to_proto(heartbeat))
    assert cluster_codec.heartbeat_from_proto(message) == heartbeat


@settings(max_examples=60, deadline=None)
@given(model_id=MODEL_IDS, wish=any_of(LoadWish))
def test_wishes_come_back_equal(model_id: ModelId, wish: LoadWish):
    message = over_the_wire(cluster_codec.wish_to_proto(model_id, wish))
    assert cluster_codec.wish_from_proto(message) == (model_id, wish)


@settings(max_examples=60, deadline=None)
@given(hidden_states=any_of(HiddenStates))
def test_hidden_states_keep_their_bytes_in_every_type(hidden_states: HiddenStates):
    message = over_the_wire(step_codec.step_to_proto(StepMessage(Step(Epoch(1), 1), hidden_states)))
    assert step_codec.step_from_proto(message).hidden_states == hidden_states


def test_token_ids_do_not_travel_with_a_step():
    chunk = SequenceChunk(slot=1, position=0, num_tokens=2, token_ids=(424242, 434343), sample_index=0)
    travelled = step_codec.step_from_proto(
        over_the_wire(step_codec.step_to_proto(StepMessage(Step(Epoch(1), 1, (chunk,)))))
    )
    assert travelled.step.chunks == (chunk._replace(token_ids=()),)


@settings(max_examples=60, deadline=None)
@given(instance=any_of(Instance))
def test_the_dot_of_an_instance_travels_with_it(instance: Instance):
    message = over_the_wire(cluster_codec.instance_to_proto(instance))
    assert cluster_codec.instance_from_proto(message).dot == instance.dot
