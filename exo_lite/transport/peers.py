"""Every connection between nodes begins here: the one place that opens channels and takes ports."""

from __future__ import annotations

import grpc

from exo_lite.domain.credentials import Credentials
from exo_lite.domain.errors import NodeLost
from exo_lite.domain.ids import Epoch
from exo_lite.domain.pipeline import Endpoint
from exo_lite.domain.step import StepMessage, StepResult
from exo_lite.domain.worker import DEFAULT_HANG_TIMEOUT_S
from exo_lite.transport import channels, pulse, reach
from exo_lite.transport.channels import CONTROL_MESSAGE_BYTES, MAX_CONNECTIONS
from exo_lite.transport.in_stream import InStream, results_from, steps_from
from exo_lite.transport.node_client import NodeClient
from exo_lite.transport.stage_server import StageHandler, create_stage_server
from exo_lite.transport.worker_client import WorkerClient
from exo_lite.transport.worker_server import WorkerHandler, serve_worker


class GrpcPeers:
    """The other nodes and their workers, by gRPC. Built once in each process and handed down."""

    def __init__(
        self,
        credentials: Credentials,
        *,
        max_message_bytes: int = CONTROL_MESSAGE_BYTES,
        hang_timeout_s: float = DEFAULT_HANG_TIMEOUT_S,
    ) -> None:
        """`max_message_bytes`: the largest message of a worker. Its process may be silent for `hang_timeout_s`."""
        self._credentials = credentials
        self._max_message_bytes = max_message_bytes
        self._hang_timeout_s = hang_timeout_s

    # Whom to call.

    def node(self, address: str) -> NodeClient:
        """The daemon at an address, for the caller to close."""
        return NodeClient(address, channels.open_channel(address, self._credentials))

    def worker(self, endpoint: Endpoint) -> WorkerClient:
        """A worker, for the caller to close. Answers end with NodeLost once its process is silent for too long."""
        channel = channels.open_channel(
            endpoint.address,
            self._credentials,
            max_message_bytes=self._max_message_bytes,
            silence_s=self._hang_timeout_s,
        )
        return WorkerClient(endpoint, channel)

    def steps(self, endpoint: Endpoint, epoch: Epoch) -> InStream[StepMessage]:
        """Open the stream of steps from the stage before."""
        return steps_from(endpoint, epoch, self._stream_channel(endpoint))

    def results(self, endpoint: Endpoint, epoch: Epoch) -> InStream[StepResult]:
        """Open the stream of results from the last stage."""
        return results_from(endpoint, epoch, self._stream_channel(endpoint))

    async def until_silent(self, endpoint: Endpoint) -> NodeLost:
        """Wait until a worker's process is silent for too long or refuses connections; return what happened."""
        silence_s = self._hang_timeout_s
        channel = channels.open_channel(endpoint.address, self._credentials, silence_s=silence_s * pulse.NOTICING_SHARE)
        async with channel:
            return await pulse.until_silent(endpoint, channel, silence_s=silence_s)

    async def check_port(self, address: str, *, timeout_s: float) -> None:
        """Raises ConnectionRefused, PortSilent, NoRoute or another NodeLost where nothing listens at an address."""
        await reach.check_port(address, timeout_s=timeout_s)

    # Who answers.

    def node_server(self, *, max_connections: int = MAX_CONNECTIONS) -> grpc.aio.Server:
        """A daemon's server, for `serve_node`. It closes connections beyond `max_connections` at once."""
        return channels.create_server(max_connections=max_connections)

    def worker_server(self, handler: WorkerHandler) -> grpc.aio.Server:
        server = channels.create_server(max_message_bytes=self._max_message_bytes, silence_s=self._hang_timeout_s)
        serve_worker(server, handler)
        return server

    def stage_server(self, handler: StageHandler) -> grpc.Server:
        """The server of what a worker computes, which the next stage reads."""
        return create_stage_server(handler, max_message_bytes=self._max_message_bytes)

    def bind(self, server: grpc.aio.Server | grpc.Server, host: str, port: int) -> int:
        """Take the port, 0 for a free one, and return it. Raises PortInUse."""
        return channels.bind(server, host, port, self._credentials)

    def bind_within(self, server: grpc.aio.Server | grpc.Server, host: str, first_port: int, last_port: int) -> int:
        """Take the first free port of a range, 0 to 0 for any, and return it. Raises PortInUse."""
        return channels.bind_within(server, host, first_port, last_port, self._credentials)

    def _stream_channel(self, endpoint: Endpoint) -> grpc.Channel:
        return channels.open_stream_channel(
            endpoint.address, self._credentials, max_message_bytes=self._max_message_bytes
        )
