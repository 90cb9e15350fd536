"""How a worker is, in its own words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from exo_lite.domain.ids import Epoch

NO_EPOCH = Epoch(0)
ShardState = Literal["loading", "ready", "lost"]


@dataclass(frozen=True, slots=True)
class WorkerFailure:
    """What went wrong: in words, and as an ExoLiteError.code."""

    text: str
    code: str
    stages: tuple[int, int] | None = None
    """The two stages whose stream broke off, where it is that."""


@dataclass(frozen=True, slots=True)
class ServingCounts:
    """What the first stage has counted in its epoch."""

    num_kept_blocks: int = 0
    """Of the KV cache: free ones that are kept for prompts that begin alike."""
    num_prompt_tokens: int = 0
    """Of all requests that were given a place."""
    num_cached_tokens: int = 0
    """Of these, that did not have to be computed again."""
    num_proposed_tokens: int = 0
    """Guesses at tokens of answers."""
    num_accepted_tokens: int = 0
    """Of these, that were right."""


@dataclass(frozen=True, slots=True)
class DriverReport:
    """What only the first stage knows, which drives the others: its requests, and how the whole pipeline is."""

    num_running: int = 0
    num_waiting: int = 0
    idle_s: float = 0.0
    """Since the last request left, 0 while there are some."""
    tokens_per_second: float = 0.0
    """Tokens sampled in the last seconds."""
    hop_ms: float | None = None
    """Moving average of what a hop adds to a step."""
    proof_age_s: float | None = None
    """Since the last token or probe went through every hop."""
    num_kv_blocks: int = 0
    """Of the KV cache, for all its sequences."""
    num_free_kv_blocks: int = 0
    """Those that no request holds."""
    counts: ServingCounts = ServingCounts()


@dataclass(frozen=True, slots=True)
class WorkerReport:
    """`lost`: it cannot load its shard."""

    state: ShardState = "loading"
    progress: float = 0.0
    """Of loading, 0 to 1."""
    joined_epoch: Epoch = NO_EPOCH
    """Of the pipeline that it is joined to; 0 before the first."""
    compute_ms: float | None = None
    """Moving average of one step's computing."""
    failure: WorkerFailure | None = None
    driver: DriverReport | None = None
    """The first stage's, once it is in a pipeline."""
