"""What was loaded is kept on disk, and read again whatever stands there."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from exo_lite.domain.cluster_events import PlacementSeen
from exo_lite.domain.ids import Epoch, ModelId
from exo_lite.domain.placement import Instance, UnloadedModel
from exo_lite.node.cluster import Cluster
from exo_lite.node.decisions import Replan, next_actions
from exo_lite.node.event_log import EventLog
from exo_lite.node.pinned_models import RESTORED, PinnedModels, pinned_in
from tests.loopback import CLOCK
from tests.unit.node.cluster_states import FIRST, MODEL, SECOND, cluster, instance, member, node, part
from tests.waiting import until

OTHER = ModelId("other")
PINNED = instance(FIRST, SECOND, state="ready")
ON_DEMAND = replace(instance(part("a", 0, 3, OTHER), model_id=OTHER), keep_alive_s=300.0)


def kept(folder: Path, *instances: Instance) -> tuple[PinnedModels, Cluster, EventLog]:
    seen, events = Cluster(cluster(node("a"), [], *instances)), EventLog(CLOCK)
    return PinnedModels(seen, folder, "home", events), seen, events


async def written(folder: Path, *instances: Instance) -> None:
    """Let the pinned models of a cluster be kept until they stand in the file."""
    pinned, seen, _ = kept(folder, *instances)
    keeping = asyncio.create_task(pinned.keep())
    expected = pinned_in(seen.state.written)
    await until(lambda: kept(folder)[0].read() == expected, "the file is written")
    keeping.cancel()
    await asyncio.wait({keeping})


async def test_what_somebody_pinned_comes_back_as_it_was_asked_for_and_the_rest_does_not(tmp_path: Path):
    failed = replace(PINNED, state="failed", reason="node-b is lost", cause="node_lost")
    await written(tmp_path, failed, ON_DEMAND)
    found = kept(tmp_path)[0].read()
    [again] = found.instances
    assert found.is_restored
    assert (again.model_id, again.state, again.reason, again.cause) == (MODEL, "loading", RESTORED, None)
    assert (again.options, again.assignments, again.is_pinned) == (PINNED.options, PINNED.assignments, True)


async def test_what_was_unloaded_is_forgotten(tmp_path: Path):
    await written(tmp_path, PINNED)
    pinned, seen, _ = kept(tmp_path, PINNED)
    keeping = asyncio.create_task(pinned.keep())
    gone = UnloadedModel(MODEL, Epoch(6), "tiny was unloaded")
    seen.apply(PlacementSeen(replace(seen.state.written, epoch=Epoch(6), instances=(), unloaded=(gone,))))

    await until(lambda: kept(tmp_path)[0].read().instances == (), "forgotten")
    keeping.cancel()
    await asyncio.wait({keeping})


def test_without_a_file_there_are_none(tmp_path: Path):
    pinned, _, events = kept(tmp_path)
    assert pinned.read().is_empty
    assert list(events) == []


async def test_another_cluster_has_its_own(tmp_path: Path):
    await written(tmp_path, PINNED)
    seen = Cluster(cluster(node("a")))
    assert PinnedModels(seen, tmp_path, "office", EventLog(CLOCK)).read().is_empty


def _file(folder: Path) -> Path:
    [path] = folder.glob("pinned.*.json")
    return path


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[: len(text) // 2],
        lambda text: "",
        lambda text: "[]",
        lambda text: text.replace('"ready"', '"dancing"').replace('"loading"', '"dancing"'),
        lambda text: text.replace('"end_layer": 1', '"end_layer": 99'),
        lambda text: '{"instances": [{"model_id": "tiny"}]}',
        lambda text: "[" * 5000,
        lambda text: "\ud800",
    ],
)
async def test_a_damaged_file_is_told_of_and_set_aside(tmp_path: Path, damage: Callable[[str], str]):
    await written(tmp_path, PINNED)
    path = _file(tmp_path)
    path.write_bytes(damage(path.read_text(encoding="utf-8")).encode(errors="surrogatepass"))
    pinned, _, events = kept(tmp_path)
    assert pinned.read().is_empty
    [event] = events
    assert "models loaded before the restart do not come back" in event.text
    assert event.fix is not None
    assert not path.exists()
    assert path.with_suffix(".damaged").exists()


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_whatever_stands_in_the_file_nothing_is_raised(tmp_path: Path, data: st.DataObject):
    asyncio.run(written(tmp_path, PINNED))
    path = _file(tmp_path)
    content = bytearray(path.read_bytes())
    for place in data.draw(st.lists(st.integers(0, len(content) - 1), max_size=4)):
        content[place] = data.draw(st.integers(0, 255))
    path.write_bytes(bytes(content))
    kept(tmp_path)[0].read()


async def test_a_folder_that_cannot_be_written_is_told_of_once_and_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("exo_lite.node.pinned_models.RETRY_AFTER_S", 0.0)
    folder = tmp_path / "gone"
    pinned, _, events = kept(folder, PINNED)
    keeping = asyncio.create_task(pinned.keep())
    await until(lambda: len(list(events)) == 1, "told of")
    folder.mkdir()
    await until(lambda: list(folder.glob("pinned.*.json")), "written after all")
    keeping.cancel()
    await asyncio.wait({keeping})
    [event] = events
    assert "the loaded models will not come back after a restart" in event.text


def test_a_node_that_offers_less_than_before_gets_another_part():
    placed = replace(PINNED, state="loading")
    state = cluster(node("a"), [member(node("b", limit_bytes=100))], placed)
    restored = replace(state, written=replace(state.written, is_restored=True))
    [action] = next_actions(restored)
    assert isinstance(action, Replan)
    assert action.reason == "node-b offers only 100 B now, but has to hold 123 B"
    assert next_actions(state) == []


def test_what_was_loaded_before_goes_elsewhere_where_a_node_has_taken_another_model_since():
    """Of two that come back, the later one moves; what is ready stays."""
    taken = instance(part("b", 0, 3, OTHER), model_id=OTHER)
    for rival, mover in (taken, PINNED.model_id), (replace(taken, state="loading", epoch=Epoch(6)), OTHER):
        state = cluster(node("a"), [member(node("b", limit_bytes=200))], replace(PINNED, state="loading"), rival)
        [action] = [one for one in next_actions(state) if isinstance(one, Replan)]
        assert (action.instance_id.model_id, action.reason) == (
            mover,
            "node-b offers only 200 B now, but has to hold 246 B",
        )
