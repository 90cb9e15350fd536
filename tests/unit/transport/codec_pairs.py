"""Every type that crosses the wire, with the functions that write and read it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from google.protobuf.message import Message
from hypothesis import strategies as st

from exo_lite.domain.heartbeat import Heartbeat
from exo_lite.domain.load_options import LoadRequest
from exo_lite.domain.model_spec import ModelSpec
from exo_lite.domain.node import NodeIdentity, NodeStatus, ShardStatus
from exo_lite.domain.pipeline import ConnectOrder
from exo_lite.domain.placement import Instance, ModelDescription, Placement
from exo_lite.domain.request import GenerateRequest, Token
from exo_lite.domain.shard import Shard
from exo_lite.domain.step import StepMessage, StepResult
from exo_lite.domain.trace import RequestTrace
from exo_lite.transport import cluster_codec, step_codec
from tests.unit.transport.any_value import MODEL_IDS, any_of

Pair = tuple[st.SearchStrategy[Any], Callable[[Any], Message], Callable[[Any], Any]]

PAIRS: dict[str, Pair] = {
    "Shard": (any_of(Shard), cluster_codec.shard_to_proto, cluster_codec.shard_from_proto),
    "NodeIdentity": (any_of(NodeIdentity), cluster_codec.identity_to_proto, cluster_codec.identity_from_proto),
    "ShardStatus": (any_of(ShardStatus), cluster_codec.shard_status_to_proto, cluster_codec.shard_status_from_proto),
    "NodeStatus": (any_of(NodeStatus), cluster_codec.node_status_to_proto, cluster_codec.node_status_from_proto),
    "ModelSpec": (any_of(ModelSpec), cluster_codec.spec_to_proto, cluster_codec.spec_from_proto),
    "ModelDescription": (
        any_of(ModelDescription),
        cluster_codec.description_to_proto,
        cluster_codec.description_from_proto,
    ),
    "Instance": (any_of(Instance), cluster_codec.instance_to_proto, cluster_codec.instance_from_proto),
    "Placement": (any_of(Placement), cluster_codec.placement_to_proto, cluster_codec.placement_from_proto),
    "ConnectOrder": (any_of(ConnectOrder), cluster_codec.order_to_proto, cluster_codec.order_from_proto),
    "GenerateRequest": (any_of(GenerateRequest), step_codec.request_to_proto, step_codec.request_from_proto),
    "Token": (any_of(Token), step_codec.token_to_proto, step_codec.token_from_proto),
    "StepMessage": (any_of(StepMessage), step_codec.step_to_proto, step_codec.step_from_proto),
    "RequestTrace": (any_of(RequestTrace), step_codec.trace_to_proto, step_codec.trace_from_proto),
    "StepResult": (any_of(StepResult), step_codec.result_to_proto, step_codec.result_from_proto),
    "Heartbeat": (any_of(Heartbeat), cluster_codec.heartbeat_to_proto, cluster_codec.heartbeat_from_proto),
    "LoadRequest": (
        st.tuples(MODEL_IDS, any_of(LoadRequest)),
        lambda pair: cluster_codec.load_request_to_proto(*pair),
        cluster_codec.load_request_from_proto,
    ),
}

each_pair = pytest.mark.parametrize(
    ("values", "to_proto", "from_proto"), [pytest.param(*pair, id=name) for name, pair in PAIRS.items()]
)
