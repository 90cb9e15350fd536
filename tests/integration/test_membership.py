"""Real daemons on loopback, in one event loop: who finds whom, who is let in, who is told why not."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from contextlib import AsyncExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import pytest

from exo_lite.daemon import main as daemon_module
from exo_lite.daemon.parts import Daemon
from exo_lite.domain.errors import (
    DuplicateNode,
    IncompatibleVersion,
    ModelNotFound,
    NotAMember,
    NotReachable,
    WrongCluster,
)
from exo_lite.domain.heartbeat import Heartbeat
from exo_lite.domain.ids import BootId, NodeId
from exo_lite.domain.load_options import LoadRequest
from exo_lite.domain.node import PROTOCOL_VERSION, Device, MemoryUse, NodeIdentity, NodeStatus
from exo_lite.node import membership as membership_module
from exo_lite.node.routes import find_route
from exo_lite.transport.node_server import serve_node
from tests.integration.clusters import JOIN_TIMEOUT_S, Cluster, address_of, document, events_of, joined, seen_by
from tests.loopback import PEERS, handlers_of
from tests.waiting import until

GOODBYE_TIMEOUT_S = 1.5
"""Less than silence takes to make a node suspect."""


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    return Cluster(tmp_path)


async def refused(daemon: Daemon, part: str) -> dict[str, Any]:
    """The event of a refused handshake whose text has `part` in it."""

    def look() -> dict[str, Any] | None:
        return next((one for one in events_of(daemon, "handshake_refused") if part in one["text"]), None)

    return await until(look, f"{daemon.cluster.state.identity.name} tells of {part!r}", timeout_s=JOIN_TIMEOUT_S)


async def test_three_find_each_other_by_mdns(cluster: Cluster):
    async with AsyncExitStack() as stack:
        daemons = [await stack.enter_async_context(cluster.node(name, mdns=True)) for name in "abc"]
        await joined(*daemons)
        leaders = {document(daemon)["leader"] for daemon in daemons}
        assert leaders == {min(daemon.cluster.state.identity.node_id for daemon in daemons)}


async def test_peers_of_one_node_learn_of_each_other(cluster: Cluster):
    async with cluster.node("hub") as hub, AsyncExitStack() as stack:
        peers = (address_of(hub),)
        others = [await stack.enter_async_context(cluster.node(name, peers=peers)) for name in "abc"]
        await joined(hub, *others)
        leaders = {document(daemon)["leader"] for daemon in (hub, *others)}
        assert leaders == {min(daemon.cluster.state.identity.node_id for daemon in (hub, *others))}
        nodes = {node["name"]: node for node in document(hub)["nodes"]}
        assert {name: node["address"] for name, node in nodes.items()} == {
            daemon.cluster.state.identity.name: address_of(daemon) for daemon in (hub, *others)
        }
        await until(
            lambda: all(node["rtt_ms"] for node in document(hub)["nodes"] if not node["self"]), "round trips are known"
        )


async def test_who_places_a_model_has_met_all_that_its_asker_knows(cluster: Cluster, monkeypatch: pytest.MonkeyPatch):
    """A load right after a node has joined counts that node, however long it takes to come around."""
    monkeypatch.setattr(membership_module, "TICK_EVERY_S", 3600.0)
    async with cluster.node("hub", node_id="3" * 16) as hub, AsyncExitStack() as stack:
        peers = (address_of(hub),)
        leader = await stack.enter_async_context(cluster.node("leader", node_id="1" * 16, peers=peers))
        await joined(hub, leader)
        newest = await stack.enter_async_context(cluster.node("newest", node_id="2" * 16, peers=peers))
        await until(_is_seen_as(hub, "newest", "alive"), "the newest has joined", timeout_s=JOIN_TIMEOUT_S)
        assert "newest" not in seen_by(leader)
        with pytest.raises(ModelNotFound):
            await hub.service.load("nobody-has-it", LoadRequest())
        assert seen_by(leader) == seen_by(newest) == seen_by(hub)
        assert len(seen_by(leader)) == 3


async def test_a_peer_may_come_later_than_who_asks_for_it(cluster: Cluster):
    with closing(socket.create_server(("127.0.0.1", 0))) as place:
        address = "{}:{}".format(*place.getsockname())
    async with cluster.node("early", peers=(address,)) as early:
        await until(lambda: seen_by(early) == {"early": "alive"}, "it runs alone")
        async with cluster.node("late", port=int(address.rpartition(":")[2])) as late:
            await joined(early, late)


async def test_a_node_that_names_itself_as_a_peer_is_not_its_own_member(cluster: Cluster):
    async with cluster.node("a") as a, cluster.node("b", peers=(address_of(a),)) as b:
        b.membership.meetings.suggest(address_of(b))
        await joined(a, b)
        assert events_of(b, "handshake_refused") == []


async def test_nodes_of_another_cluster_are_not_met_on_the_network(cluster: Cluster):
    async with (
        cluster.node("a", mdns=True) as a,
        cluster.node("stranger", mdns=True, cluster=f"{cluster.name}-other") as stranger,
        cluster.node("b", mdns=True) as b,
    ):
        await joined(a, b)
        assert seen_by(stranger) == {"stranger": "alive"}
        assert events_of(a, "handshake_refused") == []


async def test_a_peer_of_another_cluster_is_refused_and_both_are_told(cluster: Cluster):
    async with (
        cluster.node("a") as a,
        cluster.node("stranger", peers=(address_of(a),), cluster="other") as stranger,
    ):
        for daemon in (a, stranger):
            event = await refused(daemon, "stranger belongs to cluster 'other'")
            assert "--cluster" in event["fix"]
        assert (seen_by(a), seen_by(stranger)) == ({"a": "alive"}, {"stranger": "alive"})
        status = replace(_status(cluster.name), identity=stranger.cluster.state.identity)
        with pytest.raises(WrongCluster):
            await _shake_hands(a, status)


async def test_another_protocol_is_refused_and_both_are_told(cluster: Cluster, monkeypatch: pytest.MonkeyPatch):
    async with cluster.node("a") as a:
        monkeypatch.setattr(daemon_module, "PROTOCOL_VERSION", 99)
        async with cluster.node("newer", peers=(address_of(a),)) as newer:
            for daemon in (a, newer):
                event = await refused(daemon, "protocol 99")
                assert "same exo-lite version" in event["fix"]
            assert (seen_by(a), seen_by(newer)) == ({"a": "alive"}, {"newer": "alive"})
            with pytest.raises(IncompatibleVersion):
                await _shake_hands(a, replace(_status(cluster.name), identity=newer.cluster.state.identity))


@pytest.mark.parametrize("asks", ["the original", "another member", "a member that hears of it"])
async def test_a_copy_of_a_data_folder_is_refused_and_the_original_undisturbed(cluster: Cluster, asks: str):
    async with (
        cluster.node("original", node_id="abcd") as original,
        cluster.node("member", peers=(address_of(original),)) as member,
    ):
        await joined(original, member)
        asked = {"the original": (address_of(original),), "another member": (address_of(member),)}
        async with cluster.node("copy", node_id="abcd", peers=asked.get(asks, ())) as copy:
            if asks == "a member that hears of it":
                member.membership.meetings.suggest(address_of(copy))
            for told in (copy, original if asks == "the original" else member):
                event = await refused(told, "abcd")
                assert "delete the file node_id" in event["fix"]
            await joined(original, member)
            known = {node["id"]: node["address"] for node in document(member)["nodes"]}
            assert known[NodeId("abcd")] == address_of(original)
            assert [event["text"] for event in events_of(member, "node_lost")] == []
            assert seen_by(copy) == {"copy": "alive"}  # refused both ways
            assert events_of(copy, "node_joined") == []
            with pytest.raises(DuplicateNode):
                await _shake_hands(member, replace(_status(cluster.name), identity=copy.cluster.state.identity))


async def test_an_address_that_does_not_answer_back_is_refused(cluster: Cluster):
    async with cluster.node("a") as a:
        with pytest.raises(NotReachable, match=r"cannot be reached at its own address 127\.0\.0\.1:9"):
            await _shake_hands(a, _status(cluster.name))
        event = await refused(a, "127.0.0.1:9")
        assert "--host" in event["fix"]
        assert seen_by(a) == {"a": "alive"}


async def test_an_address_where_somebody_else_answers_is_refused(cluster: Cluster):
    async with cluster.node("a") as a, cluster.node("b") as b:
        impostor = _status(cluster.name)
        impostor = replace(impostor, identity=replace(impostor.identity, addresses=(address_of(b),)))
        with pytest.raises(NotReachable, match="is not outsider but b"):
            await _shake_hands(a, impostor)


async def test_a_peer_whose_own_address_does_not_answer_is_reached_where_it_was_asked(cluster: Cluster):
    """It answers where it was asked, as behind a port forwarding, and gives an address that leads nowhere."""
    server = PEERS.node_server()
    serve_node(server, handlers_of(Misled(_status(cluster.name))))
    address = f"127.0.0.1:{PEERS.bind(server, '127.0.0.1', 0)}"
    await server.start()
    try:
        async with cluster.node("a", peers=(address,)) as a:
            await until(_is_seen_as(a, "outsider", "alive"), "it is a member", timeout_s=JOIN_TIMEOUT_S)
            assert {node["name"]: node["address"] for node in document(a)["nodes"]}["outsider"] == address
    finally:
        await server.stop(grace=None)


async def test_strangers_do_not_beat(cluster: Cluster):
    async with cluster.node("a") as a, PEERS.node(address_of(a)) as client:
        with pytest.raises(NotAMember, match="a handshake has to come first"):
            await client.heartbeat(Heartbeat(_status(cluster.name)), timeout_s=JOIN_TIMEOUT_S)


async def test_a_node_that_stops_cleanly_is_dead_at_once(cluster: Cluster):
    async with cluster.node("a") as a, cluster.node("b", peers=(address_of(a),)) as b:
        async with cluster.node("c", peers=(address_of(a),)) as c:
            await joined(a, b, c)
        for daemon in (a, b):
            is_dead = _is_seen_as(daemon, "c", "dead")
            await until(is_dead, "its goodbye was heard", timeout_s=GOODBYE_TIMEOUT_S)
            assert [event["text"] for event in events_of(daemon, "node_suspect")] == []
        alive = {daemon.cluster.state.identity.node_id for daemon in (a, b)}
        assert {document(daemon)["leader"] for daemon in (a, b)} == {min(alive)}


async def test_a_heartbeat_that_was_under_way_does_not_bring_back_one_that_said_goodbye(cluster: Cluster):
    async with cluster.node("a") as a, cluster.node("b", peers=(address_of(a),)) as b:
        await joined(a, b)
        await b.membership.leave()
        assert seen_by(a)["b"] == "dead"
        async with PEERS.node(address_of(a)) as client:
            await b.membership.heartbeats._beat(b.cluster.state.members[a.cluster.state.identity.node_id], client)
        assert seen_by(a)["b"] == "dead"


@pytest.mark.parametrize("caller", ["who stays", "who leaves"])
async def test_a_handshake_that_was_under_way_does_not_bring_back_one_that_said_goodbye(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, caller: str
):
    """The goodbye comes after the last question of the handshake, and before its answer."""
    asked, answered = asyncio.Event(), asyncio.Event()
    async with cluster.node("a") as a, cluster.node("b", peers=(address_of(a),)) as b:
        await joined(a, b)

        async def ask_and_wait(*question: object, **options: object) -> object:
            answer = await last_question(*question, **options)
            asked.set()
            await answered.wait()
            return answer

        if caller == "who stays":
            last_question: Any = a.membership.meetings._exchange_placements
            monkeypatch.setattr(a.membership.meetings, "_exchange_placements", ask_and_wait)
            handshake: asyncio.Task[Any] = asyncio.create_task(a.membership.meetings.shake_hands(address_of(b)))
        else:
            last_question = find_route
            monkeypatch.setattr("exo_lite.node.membership.find_route", ask_and_wait)
            handshake = asyncio.create_task(a.membership.on_handshake(b.cluster.state.self_status, None))
        await asyncio.wait_for(asked.wait(), JOIN_TIMEOUT_S)
        await b.membership.leave()
        assert seen_by(a)["b"] == "dead"
        answered.set()
        await handshake
        assert seen_by(a)["b"] == "dead"
        assert [event["text"].split()[0] for event in events_of(a, "node_joined")] == ["b"]


async def test_a_node_that_comes_back_is_a_member_again(cluster: Cluster):
    async with cluster.node("a") as a:
        async with cluster.node("b", peers=(address_of(a),)) as b:
            await joined(a, b)
            first = b.cluster.state.identity
        await until(_is_seen_as(a, "b", "dead"), "it is gone", timeout_s=GOODBYE_TIMEOUT_S)
        async with cluster.node("b", peers=(address_of(a),)) as b:
            await joined(a, b)
            assert b.cluster.state.identity.node_id == first.node_id
            known = {node["name"]: node["address"] for node in document(a)["nodes"]}
            assert known["b"] == address_of(b)


async def test_one_that_was_taken_for_dead_shakes_hands_again(cluster: Cluster):
    async with cluster.node("a") as a, cluster.node("b", peers=(address_of(a),)) as b:
        await joined(a, b)
        async with PEERS.node(address_of(a)) as client:
            identity = b.cluster.state.identity
            await client.leave(identity.node_id, BootId("another boot"), timeout_s=JOIN_TIMEOUT_S)
            assert seen_by(a)["b"] == "alive"  # only its own goodbye counts
            await client.leave(identity.node_id, identity.boot_id, timeout_s=JOIN_TIMEOUT_S)
        assert seen_by(a)["b"] == "dead"
        await joined(a, b)
        assert [event["text"].split()[0] for event in events_of(a, "node_joined")] == ["b", "b"]


def _is_seen_as(daemon: Daemon, name: str, state: str) -> Callable[[], bool]:
    return lambda: seen_by(daemon).get(name) == state


async def _shake_hands(daemon: Daemon, status: NodeStatus) -> NoReturn:
    async with PEERS.node(address_of(daemon)) as client:
        await client.handshake(status, timeout_s=JOIN_TIMEOUT_S)
    raise AssertionError("the handshake was taken")


def _status(cluster_name: str) -> NodeStatus:
    """Of somebody who is at no address."""
    identity = NodeIdentity(
        node_id=NodeId("0f"),
        boot_id=BootId("boot"),
        name="outsider",
        cluster=cluster_name,
        version="1",
        protocol_version=PROTOCOL_VERSION,
        addresses=("127.0.0.1:9",),
        http_address="127.0.0.1:1",
    )
    return NodeStatus(identity, 1, Device("cpu", "none", 1), MemoryUse(1))


class Misled:
    """Takes everybody in and does nothing else."""

    def __init__(self, status: NodeStatus) -> None:
        self._status = status

    def identity(self) -> NodeIdentity:
        return self._status.identity

    async def on_handshake(self, status: NodeStatus, seen_from: str | None) -> NodeStatus:
        return self._status

    def on_heartbeat(self, heartbeat: Heartbeat) -> Heartbeat:
        return Heartbeat(self._status)

    async def on_ping_request(self, node_id: NodeId) -> bool:
        return False

    def on_leave(self, node_id: NodeId, boot_id: BootId) -> None:
        pass
