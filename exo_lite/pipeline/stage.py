"""One stage's computing: a step in, hidden states or sampled tokens out. Runs on the compute thread."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Protocol

import torch

from exo_lite.domain.errors import MalformedStep
from exo_lite.domain.model_spec import ModelSpec
from exo_lite.domain.request import Logprobs
from exo_lite.domain.shard import Shard
from exo_lite.domain.step import (
    Admission,
    HiddenStates,
    PromptScores,
    SampledToken,
    SequenceChunk,
    StepMessage,
)
from exo_lite.engine.torch_c.kv_cache import KVCache
from exo_lite.engine.torch_c.tensor_bytes import from_hidden_states, to_hidden_states
from exo_lite.pipeline.sampler import Sampler

MIN_SCORED_ROWS = 8
"""The rows scored at a time, however few slots there are."""


@dataclass(frozen=True, slots=True)
class StageOutput:
    """Hidden states for the next stage, or sampled tokens on the last one, and what prompts are scored with."""

    hidden_states: HiddenStates | None = None
    tokens: tuple[SampledToken, ...] = ()
    scores: tuple[PromptScores, ...] = ()


class ComputedShard(Protocol):
    """A LlamaShard or IntegerShard, as a stage needs it."""

    @property
    def spec(self) -> ModelSpec: ...

    @property
    def shard(self) -> Shard: ...

    @property
    def device(self) -> torch.device: ...

    def forward(self, inputs: torch.Tensor, chunks: Sequence[SequenceChunk], kv_cache: KVCache) -> torch.Tensor: ...

    def logits(self, hidden_states: torch.Tensor) -> torch.Tensor: ...


class Stage:
    """A shard with its KV cache; on the last one, the sampler."""

    def __init__(self, shard: ComputedShard, kv_cache: KVCache) -> None:
        self._shard = shard
        self._kv_cache = kv_cache
        self._admitted: set[int] = set()
        self._sampler = Sampler(shard.spec.vocab_size) if shard.shard.is_last else None

    @property
    def vocab_size(self) -> int:
        return self._shard.spec.vocab_size

    def reset(self) -> None:
        """Forget every sequence, as at a new epoch."""
        self._admitted.clear()
        if self._sampler is not None:
            self._sampler.reset()

    @torch.inference_mode()
    def compute(self, message: StepMessage) -> StageOutput:
        """Raises MalformedStep."""
        step = message.step
        self._admit(step.admissions)
        if not step.chunks or message.failure is not None:
            return StageOutput()
        self._check_admitted(step.chunks)
        _check_chunks(step.chunks)
        hidden_states = self._shard.forward(self._inputs(message), step.chunks, self._kv_cache)
        if self._sampler is not None:
            scores = self._scores(self._sampler, hidden_states, step.chunks)
            return StageOutput(tokens=self._sample(self._sampler, hidden_states, step.chunks), scores=scores)
        return StageOutput(hidden_states=to_hidden_states(hidden_states))

    def _admit(self, admissions: tuple[Admission, ...]) -> None:
        for admission in admissions:
            slot = admission.slot
            if not 0 <= slot < self._kv_cache.num_slots:
                raise MalformedStep(f"slot {slot} is not within 0..{self._kv_cache.num_slots - 1}")
            self._kv_cache.admit(slot, admission.blocks, num_cached_tokens=admission.num_cached_tokens)
            self._admitted.add(slot)
        if self._sampler is not None:
            self._sampler.admit(admissions)

    def _check_admitted(self, chunks: tuple[SequenceChunk, ...]) -> None:
        """Refuse slots that were never admitted: they may still hold an earlier sequence. Raises MalformedStep."""
        unknown = sorted({chunk.slot for chunk in chunks} - self._admitted)
        if unknown:
            raise MalformedStep(f"slots {unknown} were never admitted")

    def _inputs(self, message: StepMessage) -> torch.Tensor:
        if self._shard.shard.is_first:
            token_ids = [token_id for chunk in message.step.chunks for token_id in chunk.token_ids]
            return torch.tensor(token_ids, dtype=torch.int64, device=self._shard.device)
        if message.hidden_states is None:
            raise MalformedStep(f"step {message.step.step_id} came to a later stage without hidden states")
        return from_hidden_states(message.hidden_states, self._shard.device)

    def _sample(
        self, sampler: Sampler, hidden_states: torch.Tensor, chunks: tuple[SequenceChunk, ...]
    ) -> tuple[SampledToken, ...]:
        """Tokens after the chunks that end where one is to be drawn; each chunk's last rows decide."""
        ends = accumulate(chunk.num_tokens for chunk in chunks)
        rows = [row for end, chunk in zip(ends, chunks, strict=True) for row in range(end - chunk.num_draws, end)]
        if not rows:
            return ()
        drawing = [chunk for chunk in chunks if chunk.num_draws]
        sampler.check_admitted(drawing)
        drawn = hidden_states if len(rows) == len(hidden_states) else hidden_states[rows]
        return sampler.draw(self._shard.logits(drawn), drawing)

    def _scores(
        self, sampler: Sampler, hidden_states: torch.Tensor, chunks: tuple[SequenceChunk, ...]
    ) -> tuple[PromptScores, ...]:
        """Score prompts, few rows at a time, since planning reserved memory for so many logits."""
        starts = accumulate((chunk.num_tokens for chunk in chunks), initial=0)
        asking = [(start, chunk) for start, chunk in zip(starts, chunks, strict=False) if chunk.scored_token_ids]
        sampler.check_admitted([chunk for _, chunk in asking])
        num_rows = max(MIN_SCORED_ROWS, self._kv_cache.num_slots)
        scores: list[PromptScores] = []
        for start, chunk in asking:
            found: list[Logprobs] = []
            for first in range(0, len(chunk.scored_token_ids), num_rows):
                token_ids = chunk.scored_token_ids[first : first + num_rows]
                rows = hidden_states[start + first : start + first + len(token_ids)]
                found += sampler.score(self._shard.logits(rows), chunk.slot, token_ids)
            scores.append(PromptScores(chunk.slot, tuple(found)))
        return tuple(scores)


def _check_chunks(chunks: Sequence[SequenceChunk]) -> None:
    """Raises MalformedStep.

    Proposals follow at least one token that is certain, and are there to be compared. What is scored follows in the
    prompt, of which no token is drawn.
    """
    for chunk in chunks:
        num_proposed = len(chunk.proposed_token_ids)
        if num_proposed and (num_proposed >= chunk.num_tokens or chunk.sample_index is None):
            raise MalformedStep(f"slot {chunk.slot}: {num_proposed} proposals in a chunk of {chunk.num_tokens} tokens")
        num_scored = len(chunk.scored_token_ids)
        if num_scored + chunk.num_draws > chunk.num_tokens:
            raise MalformedStep(f"slot {chunk.slot}: {num_scored} to score in a chunk of {chunk.num_tokens} tokens")
