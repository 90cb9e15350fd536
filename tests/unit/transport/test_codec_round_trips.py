"""What goes onto the wire comes off it unchanged, through real bytes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from google.protobuf.message import Message
from hypothesis import given, settings
from hypothesis import strategies as st

from exo_lite.domain.ids import Epoch
from exo_lite.domain.placement import Instance
from exo_lite.domain.step import HiddenStates, SequenceChunk, Step, StepMessage
from exo_lite.transport import cluster_codec, step_codec
from tests.unit.transport.any_value import any_of
from tests.unit.transport.codec_pairs import each_pair


def over_the_wire(message: Message) -> Any:
    return type(message).FromString(message.SerializeToString())


@each_pair
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_every_value_comes_back_equal(
    values: st.SearchStrategy[Any],
    to_proto: Callable[[Any], Message],
    from_proto: Callable[[Any], Any],
    data: st.DataObject,
):
    value = data.draw(values)
    assert from_proto(over_the_wire(to_proto(value))) == value


@settings(max_examples=60, deadline=None)
@given(hidden_states=any_of(HiddenStates))
def test_hidden_states_keep_their_bytes_in_every_type(hidden_states: HiddenStates):
    message = over_the_wire(step_codec.step_to_proto(StepMessage(Step(Epoch(1), 1), hidden_states)))
    assert step_codec.step_from_proto(message).hidden_states == hidden_states


def test_token_ids_do_not_travel_with_a_step():
    chunk = SequenceChunk(sequence_index=1, position=0, num_tokens=2, token_ids=(424242, 434343), sample_index=0)
    travelled = step_codec.step_from_proto(
        over_the_wire(step_codec.step_to_proto(StepMessage(Step(Epoch(1), 1, (chunk,)))))
    )
    assert travelled.step.chunks == (chunk._replace(token_ids=()),)


@settings(max_examples=60, deadline=None)
@given(instance=any_of(Instance))
def test_the_dot_of_an_instance_travels_with_it(instance: Instance):
    message = over_the_wire(cluster_codec.instance_to_proto(instance))
    assert cluster_codec.instance_from_proto(message).dot == instance.dot
