"""How workers are joined into a pipeline."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from exo_lite.domain.addresses import join_address, split_address
from exo_lite.domain.errors import MalformedMessage
from exo_lite.domain.ids import Epoch, InstanceId, ModelId, NodeId


@dataclass(frozen=True, slots=True)
class Endpoint:
    """The address of another stage's worker. `name` is its node's, for people.

    In a leader's order `node_id` says which node it is on, and only the port of `address` counts: the daemon that takes
    the order puts in the host by which it reaches that node itself.
    """

    name: str
    address: str
    node_id: NodeId | None = None

    def on(self, host: str) -> Endpoint:
        """Return the same port of another host. Raises MalformedMessage if there is no port."""
        try:
            port = split_address(self.address)[1]
        except ValueError:
            raise MalformedMessage(f"{self.address!r} of {self.name} is not HOST:PORT") from None
        return replace(self, address=join_address(host, port))


@dataclass(frozen=True, slots=True)
class ConnectOrder:
    """A stage's place in the pipeline of an epoch. What ran under an earlier epoch ends."""

    model_id: ModelId
    epoch: Epoch
    stage: int
    num_stages: int
    previous: Endpoint | None
    """The source of hidden states; None on the first stage."""
    tail: Endpoint | None
    """The source of sampled tokens, on the first stage of several."""
    next_name: str
    """The node that receives this stage's output (the first stage's for the last stage): a name for messages."""
    is_exact: bool = False
    """True where all stages give the same bits, whatever is computed beside a token."""

    @property
    def instance_id(self) -> InstanceId:
        return InstanceId(self.model_id, self.epoch)

    @property
    def endpoints(self) -> tuple[Endpoint, ...]:
        """The stages whose streams this stage reads."""
        return tuple(endpoint for endpoint in (self.previous, self.tail) if endpoint is not None)

    def routed(self, host_of: Callable[[NodeId], str]) -> ConnectOrder:
        """The same order, with every endpoint at the host by which this node reaches it."""
        previous, tail = (
            endpoint.on(host_of(endpoint.node_id))
            if endpoint is not None and endpoint.node_id is not None
            else endpoint
            for endpoint in (self.previous, self.tail)
        )
        return replace(self, previous=previous, tail=tail)
