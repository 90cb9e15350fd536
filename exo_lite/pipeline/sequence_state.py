"""A request that holds a place in the pipeline: how far it is, and the chunks that bring it on."""

from __future__ import annotations

from dataclasses import dataclass

from exo_lite.domain.request import FinishReason, GenerateRequest, Token
from exo_lite.domain.step import PREFILL_CHUNK_TOKENS, Admission, SampledToken, SequenceChunk


@dataclass(slots=True)
class SequenceState:
    """`position` counts the tokens sent down the pipeline so far."""

    request: GenerateRequest
    slot: int
    blocks: tuple[int, ...]
    position: int = 0
    num_sampled: int = 0
    next_token: int | None = None
    """Sampled, and not yet sent down."""

    @property
    def num_prompt_left(self) -> int:
        return max(0, len(self.request.token_ids) - self.position)

    @property
    def num_in_chunk(self) -> int:
        """Prompt tokens up to the next multiple of PREFILL_CHUNK_TOKENS: chunks of an idle head end only there."""
        return min(self.num_prompt_left, PREFILL_CHUNK_TOKENS - self.position % PREFILL_CHUNK_TOKENS)

    @property
    def is_decoding(self) -> bool:
        return self.num_prompt_left == 0

    @property
    def num_unused(self) -> int:
        """Of the tokens that it may come to, those that never went down the pipeline."""
        return self.request.num_tokens - self.position

    def admission(self) -> Admission:
        request = self.request
        prompt_token_ids = tuple(sorted(set(request.token_ids))) if request.sampling.needs_prompt else ()
        return Admission(self.slot, request.sampling, prompt_token_ids, blocks=self.blocks)

    def decode_chunk(self) -> SequenceChunk:
        assert self.next_token is not None
        chunk = SequenceChunk(self.slot, self.position, 1, (self.next_token,), self.num_sampled)
        self.next_token = None
        self.position += 1
        return chunk

    def prompt_chunk(self, num_tokens: int) -> SequenceChunk:
        start, end = self.position, self.position + num_tokens
        self.position = end
        sample_index = 0 if self.is_decoding else None
        return SequenceChunk(self.slot, start, num_tokens, self.request.token_ids[start:end], sample_index)

    def take(self, sampled: SampledToken) -> Token:
        """The next token of the answer."""
        index = self.num_sampled
        self.num_sampled += 1
        self.next_token = sampled.token_id
        return Token(index, sampled.token_id, self._finish_reason(sampled.token_id), sampled.logprobs)

    def _finish_reason(self, token_id: int) -> FinishReason | None:
        if token_id in self.request.stop_token_ids:
            return "stop"
        return "length" if self.num_sampled >= self.request.max_tokens else None
