"""Placement ↔ JSON, for a file that people can read."""

from __future__ import annotations

from google.protobuf import json_format

from exo_lite.domain.errors import ExoLiteError, MalformedMessage
from exo_lite.domain.placement import Placement
from exo_lite.transport.cluster_codec import placement_from_proto, placement_to_proto
from exo_lite.transport.v1 import cluster_pb2


def placement_to_json(placement: Placement) -> str:
    return json_format.MessageToJson(placement_to_proto(placement), preserving_proto_field_name=True) + "\n"


def placement_from_json(text: str) -> Placement:
    """Raises MalformedMessage."""
    try:
        message = json_format.Parse(text, cluster_pb2.Placement(), max_recursion_depth=20)
        placement = placement_from_proto(message)
    except (json_format.ParseError, ExoLiteError, ValueError, RecursionError) as error:
        raise MalformedMessage(f"it holds no placement: {error}") from error
    if not placement.author or any(
        not instance.assignments for instance in (*placement.instances, *placement.siblings)
    ):
        raise MalformedMessage("it lacks an author, or the nodes of a model")
    return placement
