"""One stage's computing: a step in, hidden states or sampled tokens out. Runs on the compute thread."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from exo_lite.domain.errors import MalformedStep
from exo_lite.domain.request import Logprobs
from exo_lite.domain.step import (
    Admission,
    HiddenStates,
    PromptScores,
    SampledToken,
    SequenceChunk,
    StepMessage,
)
from exo_lite.engine.engine import ComputedRows, LoadedShard
from exo_lite.pipeline.sampler import Sampler

MIN_SCORED_ROWS = 8
"""The rows scored at a time, however few sequences there may be."""


@dataclass(frozen=True, slots=True)
class StageOutput:
    """Hidden states for the next stage, or sampled tokens on the last one, and what prompts are scored with."""

    hidden_states: HiddenStates | None = None
    tokens: tuple[SampledToken, ...] = ()
    scores: tuple[PromptScores, ...] = ()


class Stage:
    """A shard with its KV cache; on the last one, the sampler."""

    def __init__(self, shard: LoadedShard) -> None:
        self._shard = shard
        self._admitted: set[int] = set()
        self._sampler = Sampler(shard.spec.vocab_size) if shard.shard.is_last else None

    @property
    def vocab_size(self) -> int:
        return self._shard.spec.vocab_size

    @property
    def numerics(self) -> str | None:
        return self._shard.numerics

    def reset(self) -> None:
        """Forget every sequence, as at a new epoch."""
        self._admitted.clear()
        if self._sampler is not None:
            self._sampler.reset()

    def compute(self, message: StepMessage) -> StageOutput:
        """Raises MalformedStep."""
        step = message.step
        self._admit(step.admissions)
        if not step.chunks or message.failure is not None:
            return StageOutput()
        self._check_admitted(step.chunks)
        _check_chunks(step.chunks)
        computed = self._shard.forward(self._inputs(message), step.chunks)
        if self._sampler is not None:
            scores = self._scores(self._sampler, computed, step.chunks)
            return StageOutput(tokens=_sample(self._sampler, computed, step.chunks), scores=scores)
        return StageOutput(hidden_states=computed.hidden_states())

    def _admit(self, admissions: tuple[Admission, ...]) -> None:
        for admission in admissions:
            index = admission.sequence_index
            if not 0 <= index < self._shard.num_sequences:
                raise MalformedStep(f"sequence {index} is not within 0..{self._shard.num_sequences - 1}")
            self._shard.admit(index, admission.blocks, num_cached_tokens=admission.num_cached_tokens)
            self._admitted.add(index)
        if self._sampler is not None:
            self._sampler.admit(admissions)

    def _check_admitted(self, chunks: tuple[SequenceChunk, ...]) -> None:
        """Refuse sequences that were never admitted: the cache may still hold an earlier one. Raises MalformedStep."""
        unknown = sorted({chunk.sequence_index for chunk in chunks} - self._admitted)
        if unknown:
            raise MalformedStep(f"sequences {unknown} were never admitted")

    def _inputs(self, message: StepMessage) -> Sequence[int] | HiddenStates:
        if self._shard.shard.is_first:
            return [token_id for chunk in message.step.chunks for token_id in chunk.token_ids]
        if message.hidden_states is None:
            raise MalformedStep(f"step {message.step.step_id} came to a later stage without hidden states")
        return message.hidden_states

    def _scores(
        self, sampler: Sampler, computed: ComputedRows, chunks: tuple[SequenceChunk, ...]
    ) -> tuple[PromptScores, ...]:
        """Score prompts, few rows at a time, since planning reserved memory for so many logits."""
        starts = accumulate((chunk.num_tokens for chunk in chunks), initial=0)
        asking = [(start, chunk) for start, chunk in zip(starts, chunks, strict=False) if chunk.scored_token_ids]
        sampler.check_admitted([chunk for _, chunk in asking])
        num_rows = max(MIN_SCORED_ROWS, self._shard.num_sequences)
        scores: list[PromptScores] = []
        for start, chunk in asking:
            found: list[Logprobs] = []
            for first in range(0, len(chunk.scored_token_ids), num_rows):
                token_ids = chunk.scored_token_ids[first : first + num_rows]
                rows = range(start + first, start + first + len(token_ids))
                found += sampler.score(computed.logits(rows), chunk.sequence_index, token_ids)
            scores.append(PromptScores(chunk.sequence_index, tuple(found)))
        return tuple(scores)


def _sample(sampler: Sampler, computed: ComputedRows, chunks: tuple[SequenceChunk, ...]) -> tuple[SampledToken, ...]:
    """Draw tokens after the chunks that end where one is to be drawn; each chunk's last rows decide."""
    ends = accumulate(chunk.num_tokens for chunk in chunks)
    rows = [row for end, chunk in zip(ends, chunks, strict=True) for row in range(end - chunk.num_draws, end)]
    if not rows:
        return ()
    drawing = [chunk for chunk in chunks if chunk.num_draws]
    sampler.check_admitted(drawing)
    return sampler.draw(computed.logits(rows), drawing)


def _check_chunks(chunks: Sequence[SequenceChunk]) -> None:
    """Raises MalformedStep.

    Proposals follow at least one token that is certain, and are there to be compared. What is scored follows in the
    prompt, of which no token is drawn.
    """
    for chunk in chunks:
        num_proposed = len(chunk.proposed_token_ids)
        if num_proposed and (num_proposed >= chunk.num_tokens or chunk.sample_index is None):
            raise MalformedStep(
                f"sequence {chunk.sequence_index}: {num_proposed} proposals in a chunk of {chunk.num_tokens} tokens"
            )
        num_scored = len(chunk.scored_token_ids)
        if num_scored + chunk.num_draws > chunk.num_tokens:
            raise MalformedStep(
                f"sequence {chunk.sequence_index}: {num_scored} to score in a chunk of {chunk.num_tokens} tokens"
            )
