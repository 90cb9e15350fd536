"""A request that holds a place in the pipeline: how far it is, and the chunks that bring it on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from exo_lite.domain.request import FinishReason, GenerateRequest, Logprobs, Token
from exo_lite.domain.step import (
    KV_BLOCK_TOKENS,
    PREFILL_CHUNK_TOKENS,
    Admission,
    SampledToken,
    SequenceChunk,
)
from exo_lite.pipeline.block_pool import Key, next_key
from exo_lite.pipeline.speculation import GuessCost, Speculator


@dataclass(slots=True)
class SequenceState:
    """`position` counts the tokens sent down the pipeline so far, or found in the cache."""

    request: GenerateRequest
    sequence_index: int
    blocks: tuple[int, ...]
    num_cached_tokens: int
    key: Key
    """The key of the last block that is known to be full on every stage."""
    position: int = field(init=False)
    num_full_blocks: int = field(init=False)
    prefill_token_ids: tuple[int, ...] = field(init=False)
    """The prompt, and what earlier attempts brought of the answer: computed before the first draw."""
    answer: list[int] = field(init=False)
    """Tokens so far, those of earlier attempts included."""
    next_token: int | None = None
    """Sampled, and not yet sent down."""
    chunk_tokens: int = PREFILL_CHUNK_TOKENS
    """The size of this prompt's chunks."""
    is_in_whole_chunks: bool = True
    """True while all chunks had `chunk_tokens` tokens, as without other requests."""
    prompt_logprobs: list[Logprobs] = field(default_factory=list)
    _speculator: Speculator | None = None

    def __post_init__(self) -> None:
        self.position = self.num_cached_tokens
        self.num_full_blocks = self.num_cached_tokens // KV_BLOCK_TOKENS
        self.prefill_token_ids = self.request.prefill_token_ids
        self.answer = [*self.request.answer_token_ids]

    @property
    def num_prompt_left(self) -> int:
        return max(0, len(self.prefill_token_ids) - self.position)

    def num_in_chunk(self, limit: int) -> int:
        """Count the prompt tokens up to the next multiple of `chunk_tokens`, or of `limit` if that is less."""
        size = min(self.chunk_tokens, limit)
        return min(self.num_prompt_left, size - self.position % size)

    @property
    def is_decoding(self) -> bool:
        return self.position >= len(self.prefill_token_ids)

    @property
    def num_unused(self) -> int:
        """The number of reserved tokens that never went down the pipeline."""
        return self.request.num_tokens - self.position

    def admission(self) -> Admission:
        asked = self.request.asked
        return Admission(
            self.sequence_index,
            asked.sampling,
            tuple(sorted(set(asked.token_ids))) if asked.sampling.needs_prompt else (),
            self.request.answer_token_ids if asked.sampling.changes_scores else (),
            blocks=self.blocks,
            num_cached_tokens=self.num_cached_tokens,
        )

    def proposals(self, most: int, cost: Callable[[], GuessCost]) -> tuple[int, ...]:
        """Guesses at the tokens after `next_token`, as far as the answer may go."""
        if self._speculator is None:
            self._speculator = Speculator([*self.request.asked.token_ids, *self.answer])
        return self._speculator.propose(min(most, self.request.asked.max_tokens - len(self.answer) - 1), cost)

    def decode_chunk(self, proposed: tuple[int, ...]) -> SequenceChunk:
        assert self.next_token is not None
        token_ids = (self.next_token, *proposed)
        chunk = SequenceChunk(self.sequence_index, self.position, len(token_ids), token_ids, len(self.answer), proposed)
        self.next_token = None
        self.position += 1
        return chunk

    def prompt_chunk(self, num_tokens: int) -> SequenceChunk:
        start, end = self.position, self.position + num_tokens
        self.position = end
        sample_index = len(self.answer) if self.is_decoding else None
        token_ids = self.prefill_token_ids
        scored = token_ids[start + 1 : end + 1] if self.request.scores_prompt else ()
        return SequenceChunk(
            self.sequence_index, start, num_tokens, token_ids[start:end], sample_index, scored_token_ids=scored
        )

    def newly_full_blocks(self, num_computed: int) -> Iterator[tuple[int, Key]]:
        """Blocks with their keys, filled since the last call: all stages have computed so many tokens by now."""
        num_known = min(num_computed, len(self.request.asked.token_ids) + len(self.answer))
        while (end := (self.num_full_blocks + 1) * KV_BLOCK_TOKENS) <= num_known:
            self.key = next_key(self.key, self._tokens(end - KV_BLOCK_TOKENS, end))
            yield self.blocks[self.num_full_blocks], self.key
            self.num_full_blocks += 1

    def take(self, chunk: SequenceChunk, sampled: Sequence[SampledToken]) -> list[Token]:
        """The next tokens of the answer, up to its end: what the tail drew after a chunk."""
        num_accepted = len(sampled) - 1 if sampled else 0
        self.position += num_accepted
        tokens: list[Token] = []
        for one in sampled:
            tokens.append(self._take_one(one))
            if tokens[-1].finish_reason is not None:
                break
        if self._speculator is not None:
            self._speculator.learn(len(chunk.proposed_token_ids), num_accepted)
        return tokens

    def _take_one(self, sampled: SampledToken) -> Token:
        index = len(self.answer)
        self.answer.append(sampled.token_id)
        self.next_token = sampled.token_id
        if self._speculator is not None:
            self._speculator.add(sampled.token_id)
        num_cached_tokens = 0 if index else self.num_cached_tokens
        reason = self._finish_reason(sampled.token_id)
        prompt_logprobs = () if index else tuple(self.prompt_logprobs)
        return Token(index, sampled.token_id, reason, sampled.logprobs, num_cached_tokens, prompt_logprobs)

    def _tokens(self, start: int, end: int) -> list[int]:
        """Return tokens of prompt and answer."""
        prompt = self.request.asked.token_ids
        answered = self.answer[max(0, start - len(prompt)) : max(0, end - len(prompt))]
        return [*prompt[start:end], *answered]

    def _finish_reason(self, token_id: int) -> FinishReason | None:
        if token_id in self.request.asked.stop_token_ids:
            return "stop"
        return "length" if len(self.answer) >= self.request.asked.max_tokens else None
