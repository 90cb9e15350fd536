"""A home of simulated nodes: whole daemons in one process, in virtual time."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

from exo_lite.daemon.machine import Machine
from exo_lite.daemon.parts import Daemon
from exo_lite.domain.ids import BootId, NodeId
from exo_lite.domain.load_options import LoadRequest
from exo_lite.domain.model_spec import ModelSpec
from exo_lite.domain.node import PROTOCOL_VERSION, Device, NodeIdentity
from exo_lite.node.network import Binding
from exo_lite.node.node_config import NodeConfig
from exo_lite.node.offer import Offer
from tests.unit.node.simulation.network import Network
from tests.unit.node.simulation.peers import SimulatedPeers
from tests.unit.node.simulation.promises import Promises, check_answer, check_calm, check_loaded
from tests.unit.node.simulation.questions import Question
from tests.unit.node.simulation.simulated_node import SimulatedNode
from tests.unit.node.simulation.virtual_time import VirtualClock, now_s
from tests.unit.node.simulation.workers import SimulatedWorker

PORT = 52414
LOOK_EVERY_S = 0.05
LOAD = LoadRequest(context_length=32, num_slots=1)


class Home:
    """Nodes by name. Their ids are their names, so that the first in the alphabet leads."""

    def __init__(self, folder: Path, models_dir: Path, spec: ModelSpec, *, memory_bytes: int, seed: int = 0) -> None:
        self.network = Network(seed=seed)
        self.nodes: dict[str, SimulatedNode] = {}
        self.questions: list[Question] = []
        self.promises = Promises()
        self.loaded: set[str] = set()
        self.unloaded: set[str] = set()
        self._folder = folder
        self._models_dir = models_dir
        self._spec = spec
        self._memory_bytes = memory_bytes
        self._num_boots = 0

    def __getitem__(self, name: str) -> SimulatedNode:
        return self.nodes[name]

    # What happens to nodes.

    def start(self, name: str, *peers: str, memory_bytes: int | None = None) -> None:
        """Start a node that is told of others by name."""
        offer = Offer(memory_bytes or self._memory_bytes, 1)
        machine = Machine(
            Device("cpu", "a processor", 1),
            Binding(host_of(name)),
            PORT,
            lambda: offer,
            SimulatedPeers(self.network, host_of(name)),
            VirtualClock(),
            partial(SimulatedWorker, self.network, host_of(name), self._spec.vocab_size),
        )
        daemon = Daemon(self._config(name, peers), self._identity(name), machine)
        daemon.cluster.listen(partial(self.promises.on_change, name))
        listener = self.network.listen(address_of(name), daemon.handlers)
        self.nodes[name] = SimulatedNode(name, daemon, listener, asyncio.ensure_future(daemon.run()))

    async def kill(self, name: str) -> None:
        """Its processes are gone: whoever calls is refused."""
        node = self.nodes.pop(name)
        self.promises.gone.add(node.state.self_status.identity.boot_id)
        node.listener.close()
        tasks = [node.running, *node.asking]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for question in self.questions:
            if question.entered_at == name and not question.is_over:
                question.cut_off()

    async def leave(self, name: str) -> None:
        """It says goodbye first."""
        self.nodes[name].daemon.service.drain()
        self.promises.left.add(self.nodes[name].state.self_status.identity.boot_id)
        await self.nodes[name].daemon.membership.leave()
        await self.kill(name)

    def unplug(self, name: str) -> None:
        """Nothing comes from it or reaches it any more, and nobody tells."""
        self.part([name], [other for other in self.nodes if other != name])

    def part(self, ones: Iterable[str], others: Iterable[str]) -> None:
        """Nothing passes between the two sides."""
        self.network.part([host_of(one) for one in ones], [host_of(other) for other in others])

    def cut(self, one: str, other: str) -> None:
        """Nothing passes from the one to the other."""
        self.network.cut(host_of(one), host_of(other))

    # What people do.

    async def load(self, model: str, *, at: str) -> None:
        """Raises what the order raises. Without another order, the model is there in the end."""
        await self.nodes[at].daemon.service.load(model, LOAD)
        self.loaded.add(model)

    async def unload(self, model: str, *, at: str) -> None:
        """Raises what the order raises. What comes of the model, orders that cross each other decide."""
        self.unloaded.add(model)
        await self.nodes[at].daemon.service.unload(model)

    def ask(self, model: str, *, at: str, num_tokens: int = 5) -> Question:
        """Make a request, whose answer comes while the test goes on."""
        question = Question(model, (1 + len(self.questions) % 5, 2, 3), num_tokens, at)
        self.questions.append(question)
        node = self.nodes[at]
        node.asking.append(asyncio.ensure_future(question.ask(node.daemon)))
        return question

    async def answer(self, model: str, *, at: str) -> None:
        """Make a request that is to be answered."""
        question = self.ask(model, at=at)
        await self.until(lambda: question.is_over, f"a request at {at} ends", within_s=150.0)
        assert question.is_answered, f"{question}\n{self.report()}"

    # What is to be.

    async def until(self, is_so: Callable[[], bool], what: str, *, within_s: float = 30.0) -> float:
        """Wait for it; return the seconds that it took. Fails where it does not come."""
        began_s = now_s()
        while not is_so():
            if now_s() - began_s > within_s:
                raise AssertionError(f"not within {within_s:g} s: {what}\n{self.report()}")
            await asyncio.sleep(LOOK_EVERY_S)
        return now_s() - began_s

    async def until_met(self, *names: str, within_s: float = 30.0) -> float:
        """These nodes, or all, see each other alive and take all others for dead."""
        expected = set(names or self.nodes)
        return await self.until(
            lambda: all(self[name].living == dict.fromkeys(expected - {name}, "alive") for name in expected),
            f"{sorted(expected)} have met",
            within_s=within_s,
        )

    async def until_ready(self, model: str, *, within_s: float = 60.0) -> float:
        """All nodes call it ready and hold the same placement."""

        def is_ready() -> bool:
            nodes = [*self.nodes.values()]
            return all(node.is_ready(model) and node.placement == nodes[0].placement for node in nodes)

        return await self.until(is_ready, f"{model} is ready", within_s=within_s)

    def is_calm(self) -> bool:
        """Nothing is under way any more."""
        nodes = [*self.nodes.values()]
        states = {one.state for node in nodes for one in node.instances}
        return (
            all(node.placement == nodes[0].placement and not node.siblings for node in nodes)
            and states <= {"ready", "failed"}
            and all(one.is_over for one in self.questions)
        )

    def check(self) -> None:
        """All promises hold."""
        try:
            assert self.promises.broken == []
            assert self.network.faults == []
            check_calm(self.nodes.values())
            check_loaded(self.nodes.values(), self.loaded - self.unloaded)
            for question in self.questions:
                check_answer(question, self._spec)
        except AssertionError as error:
            error.add_note(self.report())
            raise

    def report(self) -> str:
        """What every node sees and has told, for people."""
        lines = [*self.promises.broken, *(str(one) for one in self.questions if not one.is_over)]
        for node in self.nodes.values():
            placed = [f"{one.model_id} {one.state} {node.parts(one.model_id)}" for one in node.instances]
            lines.append(f"{node.name} sees {node.sees}, epoch {node.state.epoch}: {placed}")
            lines += [f"    {event.time:.2f} {event.kind}: {event.text}" for event in node.events]
        return "\n".join(lines)

    def _identity(self, name: str) -> NodeIdentity:
        self._num_boots += 1
        return NodeIdentity(
            node_id=NodeId(name),
            boot_id=BootId(f"{name}-{self._num_boots}"),
            name=name,
            cluster="home",
            version="1",
            protocol_version=PROTOCOL_VERSION,
            addresses=(address_of(name),),
            http_address="127.0.0.1:52415",
        )

    def _config(self, name: str, peers: Iterable[str]) -> NodeConfig:
        data_dir = self._folder / name
        data_dir.mkdir(exist_ok=True)
        return NodeConfig(
            name=name,
            cluster="home",
            host=host_of(name),
            port=PORT,
            http=None,
            peers=tuple(address_of(peer) for peer in peers),
            mdns=False,
            memory_bytes=self._memory_bytes,
            threads=1,
            device="cpu",
            data_dir=data_dir,
            models_dir=self._models_dir,
            log_format="text",
            api_key=None,
            worker_ports=(0, 0),
        )


@asynccontextmanager
async def history_of(home: Home) -> AsyncIterator[Home]:
    """What happens to a home within, and its promises at the end."""
    supervisors = logging.getLogger("exo_lite.node.supervisor")
    supervisors.addHandler(home.promises)
    try:
        yield home
        home.check()
    finally:
        for name in [*home.nodes]:
            await home.kill(name)
        supervisors.removeHandler(home.promises)
    assert home.promises.broken == []


def host_of(name: str) -> str:
    return f"10.0.0.{ord(name) - ord('a') + 1}"


def address_of(name: str) -> str:
    return f"{host_of(name)}:{PORT}"
