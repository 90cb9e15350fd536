"""What a placement asks for and what comes of it: a Plan or a Refusal."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from exo_lite.domain.errors import InvalidRequest
from exo_lite.domain.ids import ModelId, NodeId
from exo_lite.domain.model_spec import DType, ModelSpec, Quantization
from exo_lite.domain.shard import Shard

Strategy = Literal["by_memory", "by_work"]
"""Layers in proportion to the memory that nodes offer, or so that stages take about as long."""

DEFAULT_CONTEXT_LENGTH = 2048
DEFAULT_NUM_SLOTS = 8
MAX_NUM_SLOTS = 256
SEQUENCES_PER_SLOT = 4


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """How a model is to be held. The KV cache has room for `num_slots` sequences of `context_length` tokens each."""

    dtype: DType
    quant: Quantization = "none"
    context_length: int = DEFAULT_CONTEXT_LENGTH
    num_slots: int = DEFAULT_NUM_SLOTS
    strategy: Strategy = "by_memory"
    prefix_cache: bool = True
    """Whether prompts that begin alike share what was computed for them."""
    speculation: bool = True
    """Whether tokens are guessed from the text so far, and several of them checked at once."""

    @property
    def num_sequences(self) -> int:
        """That may be under way at once: more than slots where they are shorter than the context."""
        return min(SEQUENCES_PER_SLOT * self.num_slots, MAX_NUM_SLOTS)


def hidden_states_dtype(options: LoadOptions) -> DType:
    """Of what travels between stages. Quantized models are exact whatever the split, so nothing is rounded there."""
    return options.dtype if options.quant == "none" else "float32"


@dataclass(frozen=True, slots=True)
class NodeOffer:
    """What one node would give to a model. `reason` says why it offers nothing, if so."""

    node_id: NodeId
    name: str
    memory_bytes: int
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Assignment:
    """One node's part of a plan, with the bytes that it takes there."""

    node_id: NodeId
    name: str
    shard: Shard
    weight_bytes: int
    kv_cache_bytes: int
    working_bytes: int

    @property
    def memory_bytes(self) -> int:
        return self.weight_bytes + self.kv_cache_bytes + self.working_bytes


@dataclass(frozen=True, slots=True)
class Exclusion:
    """A node that holds nothing of the model, and why."""

    node_id: NodeId
    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class Plan:
    """Every layer of a model exactly once, in layer order."""

    model_id: ModelId
    n_layers: int
    options: LoadOptions
    assignments: tuple[Assignment, ...]
    excluded: tuple[Exclusion, ...] = ()


@dataclass(frozen=True, slots=True)
class Refusal:
    """No contiguous split fits; `reason` carries the arithmetic, in a sentence per node."""

    model_id: ModelId
    n_layers: int
    options: LoadOptions
    reason: str
    needed_bytes: int
    available_bytes: int
    excluded: tuple[Exclusion, ...] = ()
    broken_links: tuple[tuple[str, str], ...] = ()
    """Names of the nodes that cannot reach each other, where there is memory enough and that is the cause."""
    lacks_files: bool = False
    """There is memory enough, on nodes that do not have the model's files."""


@dataclass(frozen=True, slots=True)
class LoadWish:
    """What a user asks for; what is left open comes from the model's own files. `resolve` makes LoadOptions of it."""

    dtype: DType | None = None
    """None: the checkpoint's own."""
    quant: Quantization = "none"
    context_length: int | None = None
    num_slots: int | None = None
    strategy: Strategy = "by_memory"
    keep_alive_s: float | None = None
    """Idle seconds after which it leaves; None: for ever, or the node's default where a request asks."""
    is_on_demand: bool = False
    """A request asks: whatever of this model is placed already will do."""
    prefix_cache: bool = True
    speculation: bool = True

    def resolve(self, spec: ModelSpec) -> LoadOptions:
        """Raises InvalidRequest where the wish lies beyond the model."""
        context_length = self.context_length or min(DEFAULT_CONTEXT_LENGTH, spec.context_length)
        if not 1 <= context_length <= spec.context_length:
            raise InvalidRequest(
                f"context {context_length} is not within 1 and the model's {spec.context_length} tokens",
                param="context",
            )
        num_slots = self.num_slots or DEFAULT_NUM_SLOTS
        if not 1 <= num_slots <= MAX_NUM_SLOTS:
            raise InvalidRequest(f"slots must lie between 1 and {MAX_NUM_SLOTS}, not {num_slots}", param="slots")
        return LoadOptions(
            self.dtype or spec.dtype,
            self.quant,
            context_length,
            num_slots,
            self.strategy,
            self.prefix_cache,
            self.speculation,
        )
