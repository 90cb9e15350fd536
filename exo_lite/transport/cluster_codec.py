"""domain ↔ protobuf for what daemons tell each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, fields
from typing import Any

from exo_lite.domain.errors import MalformedMessage
from exo_lite.domain.heartbeat import Heartbeat
from exo_lite.domain.ids import BootId, Epoch, ModelId, NodeId, parse_model_id
from exo_lite.domain.keep_alive import FOR_EVER
from exo_lite.domain.model_spec import ModelSpec, RopeScaling
from exo_lite.domain.node import Device, MemoryUse, NodeIdentity, NodeStatus, ServingCounts, ShardStatus
from exo_lite.domain.pipeline import ConnectOrder, Hop
from exo_lite.domain.placement import Departure, Instance, ModelDescription, Placement
from exo_lite.domain.plan import Assignment, LoadOptions, LoadWish
from exo_lite.domain.shard import Shard
from exo_lite.transport.v1 import cluster_pb2, node_pb2
from exo_lite.transport.words import (
    DEVICE_KINDS,
    DTYPES,
    INSTANCE_STATES,
    MODEL_TYPES,
    QUANTIZATIONS,
    ROPE_TYPES,
    SHARD_STATES,
    STRATEGIES,
    WISHED_DTYPES,
    read_word,
)

_COUNT_FIELDS = tuple(field.name for field in fields(ServingCounts))
_PLAIN_SPEC_FIELDS = tuple(field.name for field in fields(ModelSpec) if field.name != "rope_scaling")


def shard_to_proto(shard: Shard) -> cluster_pb2.Shard:
    return cluster_pb2.Shard(
        model_id=shard.model_id, start_layer=shard.start_layer, end_layer=shard.end_layer, n_layers=shard.n_layers
    )


def shard_from_proto(message: cluster_pb2.Shard) -> Shard:
    """Raises InvalidShard, or InvalidRequest for what is no model id."""
    return Shard(parse_model_id(message.model_id), message.start_layer, message.end_layer, message.n_layers)


def identity_to_proto(identity: NodeIdentity) -> cluster_pb2.NodeIdentity:
    return cluster_pb2.NodeIdentity(
        node_id=identity.node_id,
        boot_id=identity.boot_id,
        name=identity.name,
        cluster=identity.cluster,
        version=identity.version,
        protocol_version=identity.protocol_version,
        addresses=identity.addresses,
        http_address=identity.http_address,
    )


def identity_from_proto(message: cluster_pb2.NodeIdentity) -> NodeIdentity:
    return NodeIdentity(
        node_id=NodeId(message.node_id),
        boot_id=BootId(message.boot_id),
        name=message.name,
        cluster=message.cluster,
        version=message.version,
        protocol_version=message.protocol_version,
        addresses=tuple(message.addresses),
        http_address=message.http_address,
    )


def shard_status_to_proto(status: ShardStatus) -> cluster_pb2.ShardStatus:
    return cluster_pb2.ShardStatus(
        shard=shard_to_proto(status.shard),
        assigned_epoch=status.assigned_epoch,
        epoch=status.epoch,
        state=status.state,
        progress=status.progress,
        weight_bytes=status.weight_bytes,
        kv_cache_bytes=status.kv_cache_bytes,
        working_bytes=status.working_bytes,
        worker_port=status.worker_port,
        stream_port=status.stream_port,
        compute_ms=status.compute_ms,
        hop_ms=status.hop_ms,
        tokens_per_second=status.tokens_per_second,
        num_running=status.num_running,
        num_waiting=status.num_waiting,
        proof_age_s=status.proof_age_s,
        error=status.error,
        error_code=status.error_code,
        failed_stages=status.failed_stages,
        idle_s=status.idle_s,
        num_kv_blocks=status.num_kv_blocks,
        num_free_kv_blocks=status.num_free_kv_blocks,
        counts=cluster_pb2.ServingCounts(**asdict(status.counts)),
    )


def shard_status_from_proto(message: cluster_pb2.ShardStatus) -> ShardStatus:
    """Raises MalformedMessage or InvalidShard."""
    return ShardStatus(
        shard=shard_from_proto(message.shard),
        assigned_epoch=Epoch(message.assigned_epoch),
        epoch=Epoch(message.epoch),
        state=read_word(message.state, SHARD_STATES),
        progress=message.progress,
        weight_bytes=message.weight_bytes,
        kv_cache_bytes=message.kv_cache_bytes,
        working_bytes=message.working_bytes,
        worker_port=message.worker_port if message.HasField("worker_port") else None,
        stream_port=message.stream_port if message.HasField("stream_port") else None,
        compute_ms=message.compute_ms if message.HasField("compute_ms") else None,
        hop_ms=message.hop_ms if message.HasField("hop_ms") else None,
        tokens_per_second=message.tokens_per_second,
        num_running=message.num_running,
        num_waiting=message.num_waiting,
        proof_age_s=message.proof_age_s if message.HasField("proof_age_s") else None,
        error=message.error if message.HasField("error") else None,
        error_code=message.error_code if message.HasField("error_code") else None,
        failed_stages=_two_stages(message.failed_stages),
        idle_s=message.idle_s if message.HasField("idle_s") else None,
        num_kv_blocks=message.num_kv_blocks,
        num_free_kv_blocks=message.num_free_kv_blocks,
        counts=ServingCounts(**{name: getattr(message.counts, name) for name in _COUNT_FIELDS}),
    )


def _two_stages(stages: Sequence[int]) -> tuple[int, int] | None:
    """Raises MalformedMessage."""
    if len(stages) not in (0, 2):
        raise MalformedMessage(f"a stream has two ends, not {len(stages)}")
    return (stages[0], stages[1]) if stages else None


def node_status_to_proto(status: NodeStatus) -> cluster_pb2.NodeStatus:
    return cluster_pb2.NodeStatus(
        identity=identity_to_proto(status.identity),
        sequence=status.sequence,
        device=cluster_pb2.Device(kind=status.device.kind, name=status.device.name, threads=status.device.threads),
        memory=cluster_pb2.MemoryUse(
            limit_bytes=status.memory.limit_bytes,
            weights_bytes=status.memory.weights_bytes,
            kv_cache_bytes=status.memory.kv_cache_bytes,
            working_bytes=status.memory.working_bytes,
        ),
        shards=[shard_status_to_proto(shard) for shard in status.shards],
        models={str(model_id): fingerprint for model_id, fingerprint in status.models.items()},
        known_addresses=status.known_addresses,
        num_requests={str(model_id): count for model_id, count in status.num_requests.items()},
        reached=status.reached,
        unreached=status.unreached,
    )


def node_status_from_proto(message: cluster_pb2.NodeStatus) -> NodeStatus:
    """Raises MalformedMessage or InvalidShard."""
    device, memory = message.device, message.memory
    return NodeStatus(
        identity=identity_from_proto(message.identity),
        sequence=message.sequence,
        device=Device(read_word(device.kind, DEVICE_KINDS), device.name, device.threads),
        memory=MemoryUse(memory.limit_bytes, memory.weights_bytes, memory.kv_cache_bytes, memory.working_bytes),
        shards=tuple(shard_status_from_proto(shard) for shard in message.shards),
        models={ModelId(model_id): fingerprint for model_id, fingerprint in message.models.items()},
        known_addresses=tuple(message.known_addresses),
        num_requests={ModelId(model_id): count for model_id, count in message.num_requests.items()},
        reached=tuple(map(NodeId, message.reached)),
        unreached=tuple(map(NodeId, message.unreached)),
    )


def spec_to_proto(spec: ModelSpec) -> cluster_pb2.ModelSpec:
    return cluster_pb2.ModelSpec(
        rope_scaling=cluster_pb2.RopeScaling(**asdict(spec.rope_scaling)),
        **{name: getattr(spec, name) for name in _PLAIN_SPEC_FIELDS},
    )


def spec_from_proto(message: cluster_pb2.ModelSpec) -> ModelSpec:
    """Raises MalformedMessage."""
    scaling = message.rope_scaling
    values: dict[str, Any] = {name: getattr(message, name) for name in _PLAIN_SPEC_FIELDS}
    values["model_type"] = read_word(message.model_type, MODEL_TYPES)
    values["dtype"] = read_word(message.dtype, DTYPES)
    values["rope_scaling"] = RopeScaling(
        read_word(scaling.rope_type, ROPE_TYPES),
        scaling.factor,
        scaling.low_freq_factor,
        scaling.high_freq_factor,
        scaling.original_max_position_embeddings,
    )
    return ModelSpec(**values)


def description_to_proto(model: ModelDescription) -> node_pb2.ModelDescription:
    return node_pb2.ModelDescription(
        model_id=model.model_id,
        fingerprint=model.fingerprint,
        spec=spec_to_proto(model.spec),
        created=model.created,
    )


def description_from_proto(message: node_pb2.ModelDescription) -> ModelDescription:
    """Raises MalformedMessage."""
    spec = spec_from_proto(message.spec)
    return ModelDescription(parse_model_id(message.model_id), message.fingerprint, spec, message.created)


def _options_from_proto(message: cluster_pb2.LoadOptions) -> LoadOptions:
    return LoadOptions(
        dtype=read_word(message.dtype, DTYPES),
        quant=read_word(message.quant, QUANTIZATIONS),
        context_length=message.context_length,
        num_slots=message.num_slots,
        strategy=read_word(message.strategy, STRATEGIES),
        prefix_cache=not message.has_no_prefix_cache,
        speculation=not message.has_no_speculation,
    )


def instance_to_proto(instance: Instance) -> cluster_pb2.Instance:
    options = instance.options
    return cluster_pb2.Instance(
        model_id=instance.model_id,
        fingerprint=instance.fingerprint,
        n_layers=instance.n_layers,
        spec=spec_to_proto(instance.spec),
        epoch=instance.epoch,
        options=cluster_pb2.LoadOptions(
            dtype=options.dtype,
            quant=options.quant,
            context_length=options.context_length,
            num_slots=options.num_slots,
            strategy=options.strategy,
            has_no_prefix_cache=not options.prefix_cache,
            has_no_speculation=not options.speculation,
        ),
        assignments=[
            cluster_pb2.Assignment(
                node_id=one.node_id,
                name=one.name,
                shard=shard_to_proto(one.shard),
                weight_bytes=one.weight_bytes,
                kv_cache_bytes=one.kv_cache_bytes,
                working_bytes=one.working_bytes,
            )
            for one in instance.assignments
        ],
        state=instance.state,
        reason=instance.reason,
        cause=instance.cause,
        dot_author=instance.dot[0],
        dot_number=instance.dot[1],
        keep_alive_s=instance.keep_alive_s,
    )


def instance_from_proto(message: cluster_pb2.Instance) -> Instance:
    """Raises MalformedMessage or InvalidShard."""
    return Instance(
        model_id=parse_model_id(message.model_id),
        fingerprint=message.fingerprint,
        spec=spec_from_proto(message.spec),
        epoch=Epoch(message.epoch),
        options=_options_from_proto(message.options),
        assignments=tuple(
            Assignment(
                node_id=NodeId(one.node_id),
                name=one.name,
                shard=shard_from_proto(one.shard),
                weight_bytes=one.weight_bytes,
                kv_cache_bytes=one.kv_cache_bytes,
                working_bytes=one.working_bytes,
            )
            for one in message.assignments
        ),
        state=read_word(message.state, INSTANCE_STATES),
        reason=message.reason if message.HasField("reason") else None,
        cause=message.cause if message.HasField("cause") else None,
        keep_alive_s=message.keep_alive_s if message.HasField("keep_alive_s") else FOR_EVER,
        dot=(NodeId(message.dot_author), message.dot_number),
    )


def placement_to_proto(placement: Placement) -> cluster_pb2.Placement:
    return cluster_pb2.Placement(
        author=placement.author,
        epoch=placement.epoch,
        revision=placement.revision,
        instances=[instance_to_proto(instance) for instance in placement.instances],
        departures=[
            cluster_pb2.Departure(model_id=one.model_id, epoch=one.epoch, text=one.text) for one in placement.departures
        ],
        clock={str(author): number for author, number in placement.clock.items()},
        siblings=[instance_to_proto(instance) for instance in placement.siblings],
        is_restored=placement.is_restored,
    )


def placement_from_proto(message: cluster_pb2.Placement) -> Placement:
    """Raises MalformedMessage or InvalidShard."""
    return Placement(
        author=NodeId(message.author),
        epoch=Epoch(message.epoch),
        revision=message.revision,
        instances=tuple(instance_from_proto(instance) for instance in message.instances),
        departures=tuple(
            Departure(parse_model_id(one.model_id), Epoch(one.epoch), one.text) for one in message.departures
        ),
        clock={NodeId(author): number for author, number in message.clock.items()},
        siblings=tuple(instance_from_proto(instance) for instance in message.siblings),
        is_restored=message.is_restored,
    )


def heartbeat_to_proto(heartbeat: Heartbeat) -> node_pb2.HeartbeatMessage:
    return node_pb2.HeartbeatMessage(
        status=node_status_to_proto(heartbeat.status),
        placement=placement_to_proto(heartbeat.placement),
        relayed=[node_status_to_proto(status) for status in heartbeat.relayed],
    )


def heartbeat_from_proto(message: node_pb2.HeartbeatMessage) -> Heartbeat:
    """Raises MalformedMessage or InvalidShard."""
    return Heartbeat(
        status=node_status_from_proto(message.status),
        placement=placement_from_proto(message.placement),
        relayed=tuple(map(node_status_from_proto, message.relayed)),
    )


def wish_to_proto(model_id: ModelId, wish: LoadWish) -> node_pb2.PlaceRequest:
    return node_pb2.PlaceRequest(
        model_id=model_id,
        dtype=wish.dtype or "auto",
        quant=wish.quant,
        context_length=wish.context_length,
        num_slots=wish.num_slots,
        strategy=wish.strategy,
        keep_alive_s=wish.keep_alive_s,
        is_on_demand=wish.is_on_demand,
        has_no_prefix_cache=not wish.prefix_cache,
        has_no_speculation=not wish.speculation,
    )


def wish_from_proto(message: node_pb2.PlaceRequest) -> tuple[ModelId, LoadWish]:
    """Raises MalformedMessage."""
    wish = LoadWish(
        dtype=read_word(message.dtype, WISHED_DTYPES),
        quant=read_word(message.quant, QUANTIZATIONS),
        context_length=message.context_length if message.HasField("context_length") else None,
        num_slots=message.num_slots if message.HasField("num_slots") else None,
        strategy=read_word(message.strategy, STRATEGIES),
        keep_alive_s=message.keep_alive_s if message.HasField("keep_alive_s") else None,
        is_on_demand=message.is_on_demand,
        prefix_cache=not message.has_no_prefix_cache,
        speculation=not message.has_no_speculation,
    )
    return parse_model_id(message.model_id), wish


def order_to_proto(order: ConnectOrder) -> node_pb2.ConnectRequest:
    return node_pb2.ConnectRequest(
        model_id=order.model_id,
        epoch=order.epoch,
        stage=order.stage,
        num_stages=order.num_stages,
        previous=_hop_to_proto(order.previous),
        tail=_hop_to_proto(order.tail),
        next_name=order.next_name,
    )


def order_from_proto(message: node_pb2.ConnectRequest) -> ConnectOrder:
    """Raises InvalidRequest for what is no model id."""
    return ConnectOrder(
        model_id=parse_model_id(message.model_id),
        epoch=Epoch(message.epoch),
        stage=message.stage,
        num_stages=message.num_stages,
        previous=_hop_from_proto(message.previous) if message.HasField("previous") else None,
        tail=_hop_from_proto(message.tail) if message.HasField("tail") else None,
        next_name=message.next_name,
    )


def _hop_to_proto(hop: Hop | None) -> node_pb2.Hop | None:
    return node_pb2.Hop(name=hop.name, address=hop.address, node_id=hop.node_id) if hop else None


def _hop_from_proto(message: node_pb2.Hop) -> Hop:
    return Hop(message.name, message.address, NodeId(message.node_id) if message.HasField("node_id") else None)
