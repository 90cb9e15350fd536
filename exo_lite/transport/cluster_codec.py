"""domain ↔ protobuf for what daemons tell each other.

The fields are those of the domain's types, in which they are described: a new one is added there and in `proto/`.
"""

from __future__ import annotations

from exo_lite.domain.heartbeat import Heartbeat
from exo_lite.domain.ids import ModelId, parse_model_id
from exo_lite.domain.load_options import LoadOptions, LoadRequest
from exo_lite.domain.model_spec import ModelSpec
from exo_lite.domain.node import NodeIdentity, NodeStatus, ShardStatus
from exo_lite.domain.pipeline import ConnectOrder
from exo_lite.domain.placement import Instance, ModelDescription, Placement
from exo_lite.domain.shard import Shard
from exo_lite.domain.worker_report import WorkerReport
from exo_lite.transport.dataclass_codec import from_message, read_fields, to_message
from exo_lite.transport.v1 import cluster_pb2, node_pb2


def shard_to_proto(shard: Shard) -> cluster_pb2.Shard:
    return to_message(shard, cluster_pb2.Shard)


def shard_from_proto(message: cluster_pb2.Shard) -> Shard:
    """Raises InvalidShard, or InvalidRequest for what is no model id."""
    return from_message(Shard, message)


def identity_to_proto(identity: NodeIdentity) -> cluster_pb2.NodeIdentity:
    return to_message(identity, cluster_pb2.NodeIdentity)


def identity_from_proto(message: cluster_pb2.NodeIdentity) -> NodeIdentity:
    return from_message(NodeIdentity, message)


def report_to_proto(report: WorkerReport) -> cluster_pb2.WorkerReport:
    return to_message(report, cluster_pb2.WorkerReport)


def report_from_proto(message: cluster_pb2.WorkerReport) -> WorkerReport:
    """Raises MalformedMessage."""
    return from_message(WorkerReport, message)


def shard_status_to_proto(status: ShardStatus) -> cluster_pb2.ShardStatus:
    return to_message(status, cluster_pb2.ShardStatus)


def shard_status_from_proto(message: cluster_pb2.ShardStatus) -> ShardStatus:
    """Raises MalformedMessage or InvalidShard."""
    return from_message(ShardStatus, message)


def node_status_to_proto(status: NodeStatus) -> cluster_pb2.NodeStatus:
    return to_message(status, cluster_pb2.NodeStatus)


def node_status_from_proto(message: cluster_pb2.NodeStatus) -> NodeStatus:
    """Raises MalformedMessage or InvalidShard."""
    return from_message(NodeStatus, message)


def spec_to_proto(spec: ModelSpec) -> cluster_pb2.ModelSpec:
    return to_message(spec, cluster_pb2.ModelSpec)


def spec_from_proto(message: cluster_pb2.ModelSpec) -> ModelSpec:
    """Raises MalformedMessage."""
    return from_message(ModelSpec, message)


def description_to_proto(model: ModelDescription) -> node_pb2.ModelDescription:
    return to_message(model, node_pb2.ModelDescription)


def description_from_proto(message: node_pb2.ModelDescription) -> ModelDescription:
    """Raises MalformedMessage."""
    return from_message(ModelDescription, message)


def instance_to_proto(instance: Instance) -> cluster_pb2.Instance:
    return to_message(instance, cluster_pb2.Instance)


def instance_from_proto(message: cluster_pb2.Instance) -> Instance:
    """Raises MalformedMessage or InvalidShard."""
    return from_message(Instance, message)


def placement_to_proto(placement: Placement) -> cluster_pb2.Placement:
    return to_message(placement, cluster_pb2.Placement)


def placement_from_proto(message: cluster_pb2.Placement) -> Placement:
    """Raises MalformedMessage or InvalidShard."""
    return from_message(Placement, message)


def heartbeat_to_proto(heartbeat: Heartbeat) -> node_pb2.HeartbeatMessage:
    return to_message(heartbeat, node_pb2.HeartbeatMessage)


def heartbeat_from_proto(message: node_pb2.HeartbeatMessage) -> Heartbeat:
    """Raises MalformedMessage or InvalidShard."""
    return from_message(Heartbeat, message)


def load_request_to_proto(model_id: ModelId, request: LoadRequest) -> node_pb2.PlaceRequest:
    return node_pb2.PlaceRequest(
        model_id=model_id,
        options=cluster_pb2.LoadOptions(**request.asked),
        keep_alive_s=request.keep_alive_s,
        is_on_demand=request.is_on_demand,
    )


def load_request_from_proto(message: node_pb2.PlaceRequest) -> tuple[ModelId, LoadRequest]:
    """Raises MalformedMessage."""
    request = LoadRequest(
        **read_fields(LoadOptions, message.options),
        keep_alive_s=message.keep_alive_s if message.HasField("keep_alive_s") else None,
        is_on_demand=message.is_on_demand,
    )
    return parse_model_id(message.model_id), request


def order_to_proto(order: ConnectOrder) -> node_pb2.ConnectRequest:
    return to_message(order, node_pb2.ConnectRequest)


def order_from_proto(message: node_pb2.ConnectRequest) -> ConnectOrder:
    """Raises InvalidRequest for what is no model id."""
    return from_message(ConnectOrder, message)
