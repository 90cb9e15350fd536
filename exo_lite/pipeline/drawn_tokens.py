"""The tokens and scores of a step's result, sorted by its chunks."""

from __future__ import annotations

from collections.abc import Sequence

from exo_lite.domain.errors import MalformedStep
from exo_lite.domain.request import Logprobs
from exo_lite.domain.step import SampledToken, SequenceChunk, StepResult


def drawn_by_chunk(result: StepResult, chunks: Sequence[SequenceChunk]) -> list[Sequence[SampledToken]]:
    """Raises MalformedStep unless each chunk that asks for tokens has one, and one more per proposal that was right.

    They come in the order of their chunks.
    """
    drawn: list[Sequence[SampledToken]] = []
    tokens, start = result.tokens, 0
    for chunk in chunks:
        end = start
        while end < len(tokens) and tokens[end].sequence_index == chunk.sequence_index:
            end += 1
        drawn.append(tokens[start:end])
        start = end
        if not _are_sound(drawn[-1], chunk):
            break
    else:
        if start == len(tokens):
            return drawn
    asked = [chunk.sequence_index for chunk in chunks if chunk.num_draws]
    brought = [one.sequence_index for one in tokens]
    raise MalformedStep(f"step {result.step_id} was to bring tokens for sequences {asked}, it brought {brought}")


def scores_by_chunk(result: StepResult, chunks: Sequence[SequenceChunk]) -> list[Sequence[Logprobs]]:
    """Raises MalformedStep unless each chunk has as many as it asks for."""
    by_sequence = {one.sequence_index: one.logprobs for one in result.scores}
    scores: list[Sequence[Logprobs]] = [
        by_sequence.get(chunk.sequence_index, ()) if chunk.scored_token_ids else () for chunk in chunks
    ]
    for chunk, found in zip(chunks, scores, strict=True):
        asked = len(chunk.scored_token_ids)
        if len(found) != asked:
            wanted = f"{asked} tokens of sequence {chunk.sequence_index}"
            raise MalformedStep(f"step {result.step_id} was to score {wanted}, it brought {len(found)}")
    return scores


def _are_sound(drawn: Sequence[SampledToken], chunk: SequenceChunk) -> bool:
    if chunk.sample_index is None or not chunk.proposed_token_ids:
        return len(drawn) == chunk.num_draws
    accepted = [one.token_id for one in drawn[:-1]]
    return 0 < len(drawn) <= chunk.num_draws and (*accepted,) == chunk.proposed_token_ids[: len(accepted)]
