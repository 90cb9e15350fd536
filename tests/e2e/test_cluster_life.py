"""Three real nodes that share a model: nodes join, hang, die and return, and every failure has its deadline."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from tests.daemons import Daemons, Node, Stream, wait_until

pytestmark = pytest.mark.alone

MODEL = "smollm2-135m"
JOINED_WITHIN_S = 3.0
KILLED_IS_DEAD_WITHIN_S = 2.0
HUNG_IS_DEAD_WITHIN_S = 5.0
REQUESTS_FAIL_WITHIN_S = 5.0
CANCELLED_WITHIN_S = 2.0
GONE_WITHIN_S = 1.0
LOAD: dict[str, Any] = {"quant": "int8", "context": 512, "slots": 4}

# The largest comes first in the pipeline, and each could hold all of the model. The middle one leads: its id is first.
TRIO = {"a": ("700MiB", "bbbb"), "b": ("650MiB", "aaaa"), "c": ("600MiB", "cccc")}


def start_trio(daemons: Daemons) -> list[Node]:
    for node in daemons.running:
        if node.name not in TRIO:
            node.kill()  # a test that failed left it
    for name, (memory, node_id) in TRIO.items():
        if name not in daemons.nodes or not daemons.nodes[name].is_running:
            daemons.start(name, memory=memory, node_id=node_id)
    daemons.wait_joined(timeout_s=30.0)
    return [daemons.nodes[name] for name in TRIO]


@pytest.fixture
def trio(daemons: Daemons) -> list[Node]:
    """First, middle (which leads) and last node of a ready model, whatever the test before left."""
    nodes = start_trio(daemons)
    model = nodes[0].model(MODEL)
    if model is None or holders(model) != list(TRIO) or model["state"] == "failed":
        if model is not None:
            assert nodes[0].post(f"/api/v1/models/{MODEL}/unload").status_code == 200
        nodes[0].load(MODEL, **LOAD)
    for node in nodes:
        node.wait_ready(MODEL)
    return nodes


def holders(model: dict[str, Any]) -> list[str]:
    return [shard["node"] for shard in model["shards"]]


def model_of(node: Node) -> dict[str, Any]:
    model = node.model(MODEL)
    assert model is not None
    return model


def chat_body(max_tokens: int) -> dict[str, object]:
    """A greedy answer of exactly this length."""
    messages = [{"role": "user", "content": "Tell me a long story about a lighthouse."}]
    return {"model": MODEL, "messages": messages, "temperature": 0, "max_tokens": max_tokens, "ignore_eos": True}


def open_stream(node: Node, max_tokens: int = 400) -> Stream:
    """One that has begun to answer."""
    stream = Stream(node, "/v1/chat/completions", chat_body(max_tokens))
    stream.wait_tokens(3)
    return stream


def answer(node: Node, max_tokens: int = 5) -> list[int]:
    reply = node.post("/v1/chat/completions", {**chat_body(max_tokens), "return_token_ids": True})
    assert reply.status_code == 200, reply.text
    token_ids: list[int] = reply.json()["choices"][0]["token_ids"]
    return token_ids


def wait_all(nodes: list[Node], holds: Callable[[Node], bool], what: str, *, within_s: float = 30.0) -> None:
    """Until it held on each of the nodes, all together within the time."""
    deadline_s = time.monotonic() + within_s
    for node in nodes:
        wait_until(partial(holds, node), f"{what} on {node.name}", timeout_s=max(0.0, deadline_s - time.monotonic()))


def wait_seen(nodes: list[Node], name: str, state: str, *, within_s: float) -> None:
    """Until each of the nodes sees this state of that one."""
    wait_all(nodes, lambda node: node.seen().get(name) == state, f"{name} is {state}", within_s=within_s)


def assert_failed_naming(stream: Stream, names: list[str], *, since_s: float) -> None:
    """The stream ends in time with an error that names one of the nodes, and does not claim to be complete."""
    stream.join(REQUESTS_FAIL_WITHIN_S)
    assert stream.ended_at_s is not None
    assert stream.ended_at_s - since_s < REQUESTS_FAIL_WITHIN_S
    assert stream.error is not None, stream.documents[-1:]
    words = stream.error["message"].split()
    assert any(name in words for name in names), stream.error
    assert stream.error["code"] in ("node_lost", "connection_refused")
    assert not stream.is_done


def wait_placed_on(nodes: list[Node], *, but_epoch: int) -> None:
    """Until all of these, and nobody else, serve the model in another epoch than this."""

    def look(node: Node) -> bool:
        model = model_of(node)
        is_new = model["epoch"] != but_epoch and model["state"] == "ready"
        return is_new and sorted(holders(model)) == sorted(one.name for one in nodes)

    wait_all(nodes, look, f"{MODEL} ready with new holders")


@pytest.mark.parametrize("place", ["first", "middle, which leads", "tail"])
def test_losing_a_node_fails_its_requests_in_time_and_moves_the_model(trio: list[Node], place: str) -> None:
    victim = trio[["first", "middle, which leads", "tail"].index(place)]
    survivors = [node for node in trio if node is not victim]
    state = survivors[0].state()
    assert (state["leader"] == TRIO[victim.name][1]) == (place == "middle, which leads")
    streams = [open_stream(node) for node in survivors]
    victim.kill()
    killed_at_s = time.monotonic()
    wait_seen(survivors, victim.name, "dead", within_s=KILLED_IS_DEAD_WITHIN_S)
    for stream in streams:
        assert_failed_naming(stream, [victim.name], since_s=killed_at_s)
    wait_placed_on(survivors, but_epoch=state["epoch"])
    assert answer(survivors[0]) == answer(survivors[1])


def test_a_hung_node_is_dead_in_time_and_back_when_it_goes_on(trio: list[Node]) -> None:
    first, hung, tail = trio
    epoch = first.state()["epoch"]
    streams = [open_stream(first), open_stream(tail)]
    hung.signal(signal.SIGSTOP)
    stopped_at_s = time.monotonic()
    wait_seen([first, tail], hung.name, "dead", within_s=HUNG_IS_DEAD_WITHIN_S)
    for stream in streams:
        assert_failed_naming(stream, [hung.name], since_s=stopped_at_s)
    wait_placed_on([first, tail], but_epoch=epoch)
    stream = open_stream(first, max_tokens=80)

    hung.signal(signal.SIGCONT)
    wait_seen([first, tail], hung.name, "alive", within_s=JOINED_WITHIN_S)
    for node in (first, tail):
        wait_seen([hung], node.name, "alive", within_s=JOINED_WITHIN_S)
    wait_until(lambda: hung.state()["epoch"] == first.state()["epoch"], "the one that hung knows the placement")
    wait_until(lambda: not hung.worker_pids(), "its shard is unloaded")
    stream.join()
    assert stream.is_done, "its return disturbs nobody, though it leads again"
    assert len(answer(hung)) == 5


def test_two_nodes_that_took_each_other_for_dead_find_each_other_again(own_daemons: Daemons) -> None:
    one, two = own_daemons.start_all({"one": "100MiB", "two": "100MiB"})
    one.signal(signal.SIGSTOP)
    wait_seen([two], "one", "dead", within_s=HUNG_IS_DEAD_WITHIN_S)
    two.signal(signal.SIGSTOP)
    one.signal(signal.SIGCONT)
    wait_seen([one], "two", "dead", within_s=HUNG_IS_DEAD_WITHIN_S)
    two.signal(signal.SIGCONT)
    wait_seen([one], "two", "alive", within_s=JOINED_WITHIN_S)
    wait_seen([two], "one", "alive", within_s=JOINED_WITHIN_S)


@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "hung"])
def test_a_worker_that_is_gone_comes_back_by_itself(trio: list[Node], sign: signal.Signals) -> None:
    """The others, whose layers stay the same, keep their workers and with them their weights in memory."""
    first, middle, tail = trio
    epoch = first.state()["epoch"]
    kept = {node.name: node.worker_pids() for node in (first, tail)}
    [gone] = middle.worker_pids()
    stream = open_stream(first)
    os.kill(gone, sign)
    assert_failed_naming(stream, [middle.name], since_s=time.monotonic())
    wait_placed_on(trio, but_epoch=epoch)
    assert answer(tail) == answer(middle)
    assert {node.name: node.worker_pids() for node in (first, tail)} == kept
    assert gone not in middle.worker_pids()


def test_a_node_that_is_killed_and_started_again_at_once_serves_again(trio: list[Node], daemons: Daemons) -> None:
    first, _, tail = trio
    epoch = tail.state()["epoch"]
    port = int(next(node for node in tail.state()["nodes"] if node["name"] == first.name)["address"].split(":")[1])
    first.kill()
    again = daemons.start(first.name, memory=TRIO[first.name][0], flags=["--port", str(port)])
    daemons.wait_joined()
    wait_until(lambda: (model := tail.model(MODEL)) and model["epoch"] > epoch and model["state"] == "ready", "ready")
    wait_until(lambda: again.readyz() == tail.readyz() == 200, "ready on both")
    assert answer(again) == answer(tail)


def test_a_node_lost_while_the_model_loads_is_left_out(trio: list[Node]) -> None:
    first, middle, tail = trio
    first.post(f"/api/v1/models/{MODEL}/unload")
    placed = first.post(f"/api/v1/models/{MODEL}/load", LOAD).json()
    wait_until(lambda: all(node.worker_pids() for node in trio), "three workers load")
    tail.kill()
    wait_placed_on([first, middle], but_epoch=placed["epoch"])
    assert len(answer(middle)) == 5


@pytest.mark.parametrize("node_id", ["0000", "ffff"], ids=["which leads from then on", "which follows"])
def test_a_node_that_joins_in_mid_answer_disturbs_nothing(trio: list[Node], daemons: Daemons, node_id: str) -> None:
    alone = answer(trio[0], max_tokens=50)
    epoch = trio[0].state()["epoch"]
    stream = open_stream(trio[0], max_tokens=50)
    newcomer = daemons.start("d", memory="600MiB", node_id=node_id)
    wait_seen([*trio, newcomer], "d", "alive", within_s=JOINED_WITHIN_S)
    wait_seen([newcomer], "c", "alive", within_s=JOINED_WITHIN_S)
    stream.join()
    assert stream.is_done
    assert stream.token_ids == alone
    wait_until(lambda: newcomer.state()["epoch"] == epoch, "the newcomer knows the placement")
    assert (newcomer.state()["leader"] == node_id) == (node_id == "0000")
    assert {node.state()["epoch"] for node in trio} == {epoch}
    newcomer.stop()
    wait_seen(trio, "d", "dead", within_s=GONE_WITHIN_S)
    assert answer(trio[0], max_tokens=5) == alone[:5]


def test_a_node_that_holds_no_shard_can_be_asked(trio: list[Node], daemons: Daemons) -> None:
    small = daemons.start("d", memory="1MiB", node_id="dddd")
    small.wait_ready(MODEL)
    wait_until(lambda: small.readyz() == 200, "ready on the small node")
    assert small.worker_pids() == []
    assert answer(small) == answer(trio[0])
    stream = open_stream(small, max_tokens=10)
    stream.join()
    assert stream.is_done
    assert small.stop() == 0


def test_a_model_that_lost_its_room_says_so_and_returns_with_the_node(own_daemons: Daemons) -> None:
    sizes = {"a": "120MiB", "b": "115MiB", "c": "110MiB"}  # no two of them hold it
    nodes = own_daemons.start_all(sizes)
    nodes[0].load(MODEL, quant="int8", context=1024, slots=4)
    leader = next(node for node in nodes if node.state()["leader"] == node.state()["node"]["id"])
    survivors = [node for node in nodes if node is not leader]
    stream = open_stream(survivors[0])
    leader.kill()
    assert_failed_naming(stream, [leader.name], since_s=time.monotonic())
    wait_all(survivors, lambda node: model_of(node)["state"] == "failed", f"{MODEL} failed")
    for node in survivors:
        reason = model_of(node)["reason"]
        assert f"{MODEL} needs" in reason
        assert "short by" in reason
        ready = node.get("/readyz")
        assert (ready.status_code, reason in ready.json()["error"]["message"]) == (503, True)
        refused = node.post("/v1/chat/completions", chat_body(5))
        assert refused.status_code in (503, 507)
        assert "short by" in refused.json()["error"]["message"]
    assert not any(node.worker_pids() for node in survivors)

    own_daemons.start(leader.name, memory=sizes[leader.name])
    wait_all(own_daemons.running, lambda node: node.readyz() == 200, "ready again")
    assert len(answer(survivors[0])) == 5


def test_ready_is_said_after_the_proof_and_unloading_gives_the_memory_back(trio: list[Node]) -> None:
    unloaded = trio[1].post(f"/api/v1/models/{MODEL}/unload")
    assert unloaded.status_code == 200
    wait_until(lambda: not any(node.worker_pids() for node in trio), "no worker is left")
    wait_all(trio, lambda node: used_bytes(node) == 0, "all memory free")
    for node in trio:
        assert "no model is loaded" in node.get("/readyz").json()["error"]["message"]

    trio[0].post(f"/api/v1/models/{MODEL}/load", LOAD)
    seen: dict[str, list[str]] = {node.name: [] for node in trio}
    while not all(states[-1:] == ["ready"] for states in seen.values()):
        for node in trio:
            is_ready = node.readyz() == 200
            state = (node.model(MODEL) or {"state": "unknown"})["state"]
            if state not in seen[node.name]:
                seen[node.name].append(state)
            assert state == "ready" or not is_ready
    in_order = ["unknown", "loading", "warming", "ready"]
    assert all(states == [one for one in in_order if one in states] for states in seen.values()), seen
    assert all("loading" in states for states in seen.values()), seen
    wait_all(trio, lambda node: node.readyz() == 200, "ready")
    for node in trio:
        assert any(event["kind"] == "model_ready" for event in node.state()["events"])


def used_bytes(node: Node) -> int:
    memories = [one["memory"] for one in node.state()["nodes"] if one["state"] == "alive"]
    return sum(memory["weights_bytes"] + memory["kv_cache_bytes"] for memory in memories)


def test_a_client_that_goes_away_ends_its_request_on_every_node(trio: list[Node]) -> None:
    def running() -> list[int]:
        return [model_of(node)["requests"]["running"] for node in trio]

    for entry in trio:
        answers = entry.stream("/v1/chat/completions", chat_body(400))
        for _ in range(3):
            next(answers)
        wait_until(lambda: running() == [1, 1, 1], "all see the request run")
        answers.close()  # type: ignore[attr-defined]  # a generator
        wait_until(lambda: running() == [0, 0, 0], "all see that it ended", timeout_s=CANCELLED_WITHIN_S)


def test_a_node_told_to_stop_ends_its_answers_first_and_is_missed_at_once(trio: list[Node]) -> None:
    stopped, others = trio[1], [trio[0], trio[2]]
    epoch = stopped.state()["epoch"]
    stream = open_stream(stopped, max_tokens=60)
    assert stopped.stop() == 0
    wait_seen(others, stopped.name, "dead", within_s=GONE_WITHIN_S)
    stream.join(1.0)
    assert stream.is_done
    assert len(stream.token_ids) == 60
    wait_placed_on(others, but_epoch=epoch)
    assert len(answer(others[1])) == 5
