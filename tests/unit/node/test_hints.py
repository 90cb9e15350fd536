"""Each cause has its own way out."""

from __future__ import annotations

from dataclasses import replace

import pytest

from exo_lite.domain import errors
from exo_lite.domain.errors import ExoLiteError
from exo_lite.domain.ids import ModelId
from exo_lite.domain.load_options import LoadOptions
from exo_lite.domain.plan import Refusal
from exo_lite.node.event_log import describe_change
from exo_lite.node.hints import cause_of, fix_for
from tests.unit.node.cluster_states import FIRST, SECOND, cluster, instance, node

MEMORY = ("free memory", "--quant")

TABLE: list[tuple[type[ExoLiteError], tuple[str, ...]]] = [
    (errors.ModelDoesNotFit, (*MEMORY, "add a node")),
    (errors.OutOfMemory, (*MEMORY, "--memory")),
    (errors.ModelNotFound, ("files", "import")),
    (errors.InvalidModel, ("files", "import")),
    (errors.UnsupportedModel, ("another build",)),
    (errors.StorageError, ("models folder", "disk")),
    (errors.LinkBroken, ("ports", "firewalls", "both directions")),
    (errors.LargePacketsLost, ("MTU", "ICMP")),
    (errors.ConnectionRefused, ("port", "firewall")),
    (errors.PortInUse, ("ports",)),
    (errors.WorkerCannotStart, ("last output", "limits")),
    (errors.WorkerFailed, ("last output", "log")),
    (errors.WorkerHangs, ("overloaded",)),
    (errors.DeadlineExceeded, ("slow",)),
    (errors.IncompatibleVersion, ("same exo-lite version",)),
    (errors.MalformedMessage, ("same exo-lite version",)),
    (errors.NodeLost, ("start", "exo-lite node")),
]


@pytest.mark.parametrize(("cause", "words"), TABLE)
def test_the_hint_follows_the_cause(cause: type[ExoLiteError], words: tuple[str, ...]):
    fix = fix_for(cause.code)
    assert all(word in fix for word in words), fix


def test_memory_is_spoken_of_where_it_is_the_cause_and_nowhere_else():
    about_memory = {cause.code for cause, _ in TABLE if "free memory" in fix_for(cause.code)}
    assert about_memory == {"model_does_not_fit", "out_of_memory"}


def test_a_cause_without_a_line_of_its_own_has_that_of_its_kind():
    assert fix_for(errors.MalformedStep.code) == fix_for(errors.MalformedMessage.code)
    assert "log" in fix_for(None)
    assert "log" in fix_for("of a newer version")


def test_what_there_is_no_room_for_has_one_of_three_causes():
    refusal = Refusal(ModelId("tiny"), 4, LoadOptions("float32"), "short by", 2, 1)
    assert cause_of(refusal) == "model_does_not_fit"
    assert cause_of(replace(refusal, broken_links=(("a", "b"),))) == "link_broken"
    assert cause_of(replace(refusal, lacks_files=True)) == "model_not_found"


@pytest.mark.parametrize("cause", ["model_does_not_fit", "link_broken", "invalid_model"])
def test_the_event_of_a_failed_model_has_the_hint_of_its_cause(cause: str):
    failed = replace(instance(FIRST, SECOND, state="failed", reason="why"), cause=cause)
    [(kind, text, fix)] = describe_change(cluster(node("a")), cluster(node("a"), [], failed))
    assert (kind, text, fix) == ("model_failed", "tiny cannot run: why", fix_for(cause))
