"""Messages of the pipeline: a Step with hidden states goes down, results come back from the last stage.

What every step is made of are named tuples: a stage makes them between two computations, which drive all code out of
the caches, and then a frozen dataclass takes twice the time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from exo_lite.domain.errors import ExoLiteError, MalformedStep, error_class
from exo_lite.domain.ids import Epoch
from exo_lite.domain.model_spec import DTYPE_BYTES, DType
from exo_lite.domain.request import Logprobs, Sampling

PREFILL_CHUNK_TOKENS = 256
"""Prompts go down the pipeline in chunks of this many tokens, cut at multiples of it."""

KV_BLOCK_TOKENS = 64
"""Tokens of one sequence that share a block of the KV cache."""


def num_kv_blocks(num_tokens: int) -> int:
    """Blocks that hold so many tokens."""
    return -(-num_tokens // KV_BLOCK_TOKENS)


class SequenceChunk(NamedTuple):
    """`num_tokens` consecutive tokens of one sequence, the first at `position`, in the KV cache of `sequence_index`.

    `token_ids` go no further than the embedding, on stage 0: they never travel. The last stage samples after the chunk
    where `sample_index`, the index of the token to draw, is given. The last tokens may be proposals, guesses at what
    would be drawn: as long as they prove right, more is drawn after them. What the cache holds of wrong ones is
    overwritten by its next chunk.
    """

    sequence_index: int
    position: int
    num_tokens: int
    token_ids: tuple[int, ...] = ()
    sample_index: int | None = None
    proposed_token_ids: tuple[int, ...] = ()
    """The last ones of the chunk's tokens; the last stage needs them too, to compare."""
    scored_token_ids: tuple[int, ...] = ()
    """The prompt tokens after the chunk's first ones, if the last stage is to report their log probabilities."""

    @property
    def num_draws(self) -> int:
        """Rows from which tokens may be drawn, the chunk's last ones."""
        return 0 if self.sample_index is None else 1 + len(self.proposed_token_ids)


@dataclass(frozen=True, slots=True)
class Admission:
    """`sequence_index` stands for a new sequence from this step on; what its cache held is forgotten.

    The last stage counts tokens where penalties ask for it. It sees no prompt, so the prompt's tokens come along where
    they count, as do those of an answer that goes on after a replay.
    """

    sequence_index: int
    sampling: Sampling
    prompt_token_ids: tuple[int, ...] = ()
    """Ascending, each once; empty unless `sampling.needs_prompt`: prompts go no further than they must."""
    answer_token_ids: tuple[int, ...] = ()
    """Tokens sampled in earlier attempts; empty unless `sampling.changes_scores`."""
    blocks: tuple[int, ...] = ()
    """Blocks of the KV cache in the order of the sequence's tokens; empty for the sequence's own part of the cache."""
    num_cached_tokens: int = 0
    """Prompt tokens that the first blocks hold already: the first chunk follows them."""


class Step(NamedTuple):
    """One traversal of the pipeline. A step without chunks is a proof: it shows that every hop works.

    Admissions come before the chunks, at every stage and in step order, so that all stages agree without asking.
    """

    epoch: Epoch
    step_id: int
    chunks: tuple[SequenceChunk, ...] = ()
    admissions: tuple[Admission, ...] = ()

    @property
    def num_tokens(self) -> int:
        return sum(chunk.num_tokens for chunk in self.chunks)


@dataclass(frozen=True, slots=True)
class HiddenStates:
    """Raw bytes of a [num_tokens, hidden_size] tensor, little-endian, row-major. Raises MalformedStep."""

    dtype: DType
    num_tokens: int
    hidden_size: int
    data: bytes

    def __post_init__(self) -> None:
        expected = self.num_tokens * self.hidden_size * DTYPE_BYTES[self.dtype]
        if len(self.data) != expected:
            shape = f"[{self.num_tokens}, {self.hidden_size}]"
            raise MalformedStep(f"hidden states {shape} in {self.dtype} take {expected} bytes, got {len(self.data)}")


class StageTiming(NamedTuple):
    """The time that one stage spent on a step."""

    queue_ms: float
    compute_ms: float
    serialize_ms: float = 0.0
    """The time to build the message to the next stage, or the result for the first one."""


@dataclass(frozen=True, slots=True)
class StepFailure:
    """An ExoLiteError that ended a step, as it travels."""

    code: str
    message: str

    @property
    def error(self) -> ExoLiteError:
        return error_class(self.code)(self.message)


class StepMessage(NamedTuple):
    """A step on its way from one stage to the next.

    With `failure` set, a stage before could not compute it: it is passed on, so that steps keep their order everywhere,
    but computed no further.
    """

    step: Step
    hidden_states: HiddenStates | None = None
    timings: tuple[StageTiming, ...] = ()
    failure: StepFailure | None = None
    sent_at_s: float = 0.0
    """Sent at this time of the sender's clock: only differences within one stream mean something."""


class SampledToken(NamedTuple):
    """A token drawn by the last stage for a sequence; one more, in order, for every right proposal."""

    sequence_index: int
    token_id: int
    logprobs: Logprobs | None = None


class PromptScores(NamedTuple):
    """How likely the last stage found the `scored_token_ids` of a sequence's chunk."""

    sequence_index: int
    logprobs: tuple[Logprobs, ...]


class StepResult(NamedTuple):
    """The sampled tokens of a step, and the time that each stage took."""

    epoch: Epoch
    step_id: int
    tokens: tuple[SampledToken, ...]
    timings: tuple[StageTiming, ...]
    failure: StepFailure | None = None
    scores: tuple[PromptScores, ...] = ()
