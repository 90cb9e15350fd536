"""How workers are joined into a pipeline."""

from __future__ import annotations

from dataclasses import dataclass

from exo_lite.domain.ids import Epoch, ModelId


@dataclass(frozen=True, slots=True)
class Hop:
    """Another stage's worker. `name` is its node's, for people."""

    name: str
    address: str


@dataclass(frozen=True, slots=True)
class ConnectOrder:
    """A stage's place in the pipeline of an epoch. What ran under an earlier epoch ends."""

    model_id: ModelId
    epoch: Epoch
    stage: int
    num_stages: int
    previous: Hop | None
    """Where hidden states come from; None on the first stage."""
    tail: Hop | None
    """Where sampled tokens come from, on the first stage of several."""
    next_name: str
    """Of the node that gets what this stage computes, the head's on the last one: for people."""
