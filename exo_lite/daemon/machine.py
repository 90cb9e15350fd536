"""The machine of a node: its device, addresses and port, the ways to other nodes, the time, and its processes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial

import grpc

from exo_lite.domain.clock import Clock
from exo_lite.domain.credentials import Credentials
from exo_lite.domain.engine import NodeEngine
from exo_lite.domain.errors import PortInUse
from exo_lite.domain.ids import Epoch
from exo_lite.domain.node import Device
from exo_lite.domain.worker import WorkerConfig
from exo_lite.node.descriptors import max_peer_connections
from exo_lite.node.machine import find_engine, try_engine
from exo_lite.node.network import Binding, find_binding
from exo_lite.node.node_config import DEFAULT_PORT, NUM_PORTS_TO_TRY, NodeConfig
from exo_lite.node.offer import MachineOffer, Offer
from exo_lite.node.own_engine import TryEngine
from exo_lite.node.peers import Peers
from exo_lite.node.shards import StartWorker
from exo_lite.node.system_clock import SystemClock
from exo_lite.node.worker_process import WorkerProcess
from exo_lite.transport.peers import GrpcPeers


@dataclass(frozen=True, slots=True)
class Machine:
    """A node's machine. With peers in memory and a virtual clock, it is a simulated one."""

    device: Device
    binding: Binding
    port: int
    read_offer: Callable[[], Offer]
    peers: Peers
    clock: Clock
    start_worker: StartWorker
    device_name: str = "cpu"
    """The device as the engine takes it."""
    engine: NodeEngine = field(default_factory=NodeEngine)
    try_engine: TryEngine | None = None


async def open_machine(config: NodeConfig) -> tuple[Machine, grpc.aio.Server]:
    """This machine, and the server for what other nodes ask, which has its port. Raises StartupError."""
    offer = await asyncio.to_thread(MachineOffer, config.memory_bytes, config.threads)
    found = await find_engine(config.device, offer.read().threads)
    binding = await asyncio.to_thread(find_binding, config.host, config.advertise)
    credentials = Credentials()
    peers = GrpcPeers(credentials, hang_timeout_s=config.hang_timeout_s)
    server = peers.node_server(max_connections=max_peer_connections())
    port = _bind(peers, server, binding.host, config.port)

    def start_worker(
        worker: WorkerConfig, fingerprint: str, epoch: Epoch, on_change: Callable[[], None]
    ) -> WorkerProcess:
        worker = replace(worker, credentials=credentials)
        return WorkerProcess(worker, fingerprint, epoch, on_change, peers, own_host=binding.own_host)

    machine = Machine(
        found.device,
        binding,
        port,
        offer.read,
        peers,
        SystemClock(),
        start_worker,
        device_name=found.device_name,
        engine=found.engine,
        try_engine=partial(try_engine, found.engine.name, found.device_name),
    )
    return machine, server


def _bind(peers: GrpcPeers, server: grpc.aio.Server, host: str, port: int | None) -> int:
    if port is not None:
        return peers.bind(server, host, port)
    for candidate in range(DEFAULT_PORT, DEFAULT_PORT + NUM_PORTS_TO_TRY):
        try:
            return peers.bind(server, host, candidate)
        except PortInUse:
            continue
    raise PortInUse(f"ports {DEFAULT_PORT} to {DEFAULT_PORT + NUM_PORTS_TO_TRY - 1} of {host} are in use: give --port")
