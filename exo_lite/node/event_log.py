"""Events: sentences for people on what happened, with the way out if there is one."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from exo_lite.domain.clock import Clock
from exo_lite.domain.cluster_state import ClusterState, Member
from exo_lite.domain.placement import Instance
from exo_lite.domain.repeats import Repeats
from exo_lite.node.hints import fix_for
from exo_lite.node.notes import LINK_BROKEN, Note, notes

log = logging.getLogger(__name__)

MAX_EVENTS = 100
LINES_OF_A_KIND = 30
SPAN_S = 30.0


@dataclass(frozen=True, slots=True)
class NodeEvent:
    """`time` is wall-clock seconds since 1970, for display."""

    time: float
    kind: str
    text: str
    fix: str | None = None


class EventLog:
    """The last MAX_EVENTS events, newest last; they are logged as well, unless a kind comes by the dozen."""

    def __init__(self, clock: Clock) -> None:
        self._events: deque[NodeEvent] = deque(maxlen=MAX_EVENTS)
        self._clock = clock
        self._repeats = Repeats(clock.now, burst=LINES_OF_A_KIND, every_s=SPAN_S)

    def __iter__(self) -> Iterator[NodeEvent]:
        return iter(self._events)

    def add(self, kind: str, text: str, fix: str | None = None) -> None:
        self._events.append(NodeEvent(self._clock.wall(), kind, text, fix))
        num_left_out = self._repeats.tell(kind)
        if num_left_out is None:
            return
        fields: dict[str, object] = {"kind": kind}
        if fix:
            fields["fix"] = fix
        if num_left_out:
            fields["left_out"] = num_left_out
        log.log(logging.WARNING if fix else logging.INFO, text, extra=fields)

    def record_change(self, before: ClusterState, after: ClusterState) -> None:
        for kind, text, fix in describe_change(before, after):
            self.add(kind, text, fix)


def describe_change(before: ClusterState, after: ClusterState) -> Iterator[tuple[str, str, str | None]]:
    """Kind, text and fix of each change between two states that people care about."""
    for node_id, member in after.members.items():
        yield from _describe_member(before.members.get(node_id), member)
    yield from _describe_notes(notes(before), notes(after))
    old = {one.id: one for one in before.written.instances}
    for instance in after.written.instances:
        yield from _describe_instance(old.get(instance.id), instance)
    gone = {one.model_id: one for one in before.written.instances}
    for model_id in sorted(gone.keys() - {one.model_id for one in after.written.instances}):
        yield "model_unloaded", _unloaded_text(after, gone[model_id]), None


def _describe_notes(before: list[Note], after: list[Note]) -> Iterator[tuple[str, str, str | None]]:
    for note in after:
        if note not in before:
            yield note.kind, note.text, note.fix
    for note in before:
        if note.kind == LINK_BROKEN and note not in after:
            yield "link_mended", f"resolved: {note.text}", None


def _unloaded_text(after: ClusterState, gone: Instance) -> str:
    texts = [one.text for one in after.written.unloaded if one.model_id == gone.model_id and one.epoch > gone.epoch]
    return texts[-1] if texts else f"{gone.model_id} was unloaded"


def _describe_member(before: Member | None, after: Member) -> Iterator[tuple[str, str, str | None]]:
    identity = after.status.identity
    who = f"{identity.name} ({after.address})"
    was_there = before is not None and before.state != "dead"
    if not was_there and after.state != "dead":
        yield "node_joined", f"{who} joined", None
    elif was_there and after.state == "dead":
        yield "node_lost", f"{who} is lost", f"start it again with `exo-lite node` on {identity.name}"
    elif before is not None and before.state == "alive" and after.state == "suspect":
        yield "node_suspect", f"{who} does not answer", None


def _describe_instance(before: Instance | None, after: Instance) -> Iterator[tuple[str, str, str | None]]:
    if before is not None and before.state == after.state:
        return
    if after.state == "loading":
        parts = ", ".join(f"{one.name} {one.shard.start_layer}-{one.shard.end_layer}" for one in after.assignments)
        because = f" because {after.reason}" if after.reason else ""
        yield "model_placed", f"{after.model_id} placed on {parts}{because}", None
    elif after.state == "ready":
        yield "model_ready", f"{after.model_id} is ready: a token went through every hop", None
    elif after.state == "degraded":
        yield "model_degraded", f"{after.model_id} is degraded: {after.reason}", None
    elif after.state == "failed":
        yield (
            "model_failed",
            f"{after.model_id} cannot run: {after.reason}",
            fix_for(after.cause),
        )
