"""How a worker is, in its own words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from exo_lite.domain.ids import Epoch

NO_EPOCH = Epoch(0)
ShardState = Literal["loading", "ready", "lost"]


@dataclass(frozen=True, slots=True)
class WorkerFailure:
    """A failure: in words, and as an ExoLiteError.code."""

    text: str
    code: str
    stages: tuple[int, int] | None = None
    """The two stages whose stream broke off, where it is that."""


@dataclass(frozen=True, slots=True)
class ServingCounts:
    """The counters of the first stage in its epoch."""

    num_kept_blocks: int = 0
    """Free blocks of the KV cache that are kept for prompts that begin alike."""
    num_prompt_tokens: int = 0
    """Prompt tokens of all admitted requests."""
    num_cached_tokens: int = 0
    """Prompt tokens among them that were found in the cache."""
    num_proposed_tokens: int = 0
    """Guesses at tokens of answers."""
    num_accepted_tokens: int = 0
    """Proposed tokens among them that were right."""


@dataclass(frozen=True, slots=True)
class DriverReport:
    """The report of the first stage, which drives the others: its requests, and how the whole pipeline is."""

    num_running: int = 0
    num_waiting: int = 0
    idle_s: float = 0.0
    """Seconds since the last request ended, 0 while there are some."""
    tokens_per_second: float = 0.0
    """Tokens sampled in the last seconds."""
    hop_ms: float | None = None
    """Moving average of what a hop adds to a step."""
    proof_age_s: float | None = None
    """Seconds since the last token or empty step went through every stage."""
    num_kv_blocks: int = 0
    """The number of blocks of the KV cache."""
    num_free_kv_blocks: int = 0
    """The number of blocks that no request holds."""
    counts: ServingCounts = ServingCounts()


@dataclass(frozen=True, slots=True)
class WorkerReport:
    """`lost`: it cannot load its shard."""

    state: ShardState = "loading"
    progress: float = 0.0
    """The fraction that is loaded, 0 to 1."""
    joined_epoch: Epoch = NO_EPOCH
    """The epoch of the pipeline that it is part of; 0 before the first."""
    compute_ms: float | None = None
    """Moving average of one step's computing."""
    numerics: str | None = None
    """Identifies the numbers that it computes, once it is loaded: a token gets the same bits from another shard with
    the same. None also where a token's bits depend on what is computed beside it, as in floats."""
    failure: WorkerFailure | None = None
    driver: DriverReport | None = None
    """The first stage's, once it is in a pipeline."""
