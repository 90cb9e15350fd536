"""The end of the pipeline: what the last stage knows of each sequence, and tokens drawn with it."""

from __future__ import annotations

from collections.abc import Sequence

from exo_lite.domain.errors import MalformedStep
from exo_lite.domain.request import Logprobs, Sampling
from exo_lite.domain.step import Admission, SampledToken, SequenceChunk
from exo_lite.engine.engine import Logits
from exo_lite.pipeline.sampling.drawing import draw_token
from exo_lite.pipeline.sampling.logprobs import logprobs_of
from exo_lite.pipeline.sampling.penalties import ScoreChanges


class Sampler:
    """Draws for the chunks that end where a token is wanted, and counts what it drew where penalties ask for it."""

    def __init__(self, vocab_size: int) -> None:
        self._vocab_size = vocab_size
        self._samplings: dict[int, Sampling] = {}
        self._changes: dict[int, ScoreChanges] = {}

    def reset(self) -> None:
        """Forget every sequence."""
        self._samplings.clear()
        self._changes.clear()

    def admit(self, admissions: Sequence[Admission]) -> None:
        """Raises MalformedStep for tokens beyond the vocabulary; the sequence is then unknown."""
        for admission in admissions:
            self._samplings.pop(admission.sequence_index, None)
            self._changes.pop(admission.sequence_index, None)
        for admission in admissions:
            self._check_token_ids(admission)
        for admission in admissions:
            sampling = self._samplings[admission.sequence_index] = admission.sampling
            if sampling.changes_scores:
                changes = ScoreChanges(sampling, admission.prompt_token_ids, admission.answer_token_ids)
                self._changes[admission.sequence_index] = changes

    def draw(self, logits: Logits, chunks: Sequence[SequenceChunk]) -> tuple[SampledToken, ...]:
        """A token after each chunk, and one more for each of its proposals that was the token drawn before it.

        logits: of the draws of all chunks, a row each. Every chunk has its `sample_index`.
        """
        drawn: list[SampledToken] = []
        first_row = 0
        for chunk in chunks:
            for depth in range(chunk.num_draws):
                token = self._draw_one(
                    chunk.sequence_index, logits, first_row + depth, (chunk.sample_index or 0) + depth
                )
                drawn.append(token)
                if not _is_right(chunk, depth, token):
                    break
            first_row += chunk.num_draws
        return tuple(drawn)

    def _draw_one(self, sequence_index: int, logits: Logits, row: int, index: int) -> SampledToken:
        """Token `index` of a sequence's answer, from a row of logits. Greedy needs none of its values."""
        sampling, changes = self._samplings[sequence_index], self._changes.get(sequence_index)
        if changes is not None:
            token_id = draw_token(changes.applied(logits.values[row]), sampling, index)
            changes.add(token_id)
        elif sampling.is_greedy:
            token_id = logits.greatest[row]
        else:
            token_id = draw_token(logits.values[row], sampling, index)
        num_top = sampling.logprobs
        logprobs = None if num_top is None else logprobs_of(logits, row, token_id, num_top)
        return SampledToken(sequence_index, token_id, logprobs)

    def score(self, logits: Logits, sequence_index: int, token_ids: Sequence[int]) -> list[Logprobs]:
        """How likely each token is after the row of its place. logits: a row per token.

        Raises MalformedStep.
        """
        num_top = self._samplings[sequence_index].logprobs
        greatest = max(token_ids, default=0)
        if num_top is None or greatest >= self._vocab_size:
            raise MalformedStep(f"sequence {sequence_index}: token id {greatest} can't be scored, or was not to be")
        return [logprobs_of(logits, row, token_id, num_top) for row, token_id in enumerate(token_ids)]

    def check_admitted(self, chunks: Sequence[SequenceChunk]) -> None:
        """Raises MalformedStep."""
        unknown = [chunk.sequence_index for chunk in chunks if chunk.sequence_index not in self._samplings]
        if unknown:
            raise MalformedStep(f"sequences {unknown} were never admitted")

    def _check_token_ids(self, admission: Admission) -> None:
        biased = [token_id for token_id, _ in admission.sampling.logit_bias]
        late = admission.sampling.late_token_ids
        for token_ids in (biased, late, admission.prompt_token_ids, admission.answer_token_ids):
            greatest = max(token_ids, default=0)
            if greatest >= self._vocab_size:
                raise MalformedStep(f"token id {greatest} is not within the vocabulary, 0..{self._vocab_size - 1}")


def _is_right(chunk: SequenceChunk, depth: int, token: SampledToken) -> bool:
    """Say whether the token at `depth` is the one that was proposed."""
    proposed = chunk.proposed_token_ids
    return depth < len(proposed) and proposed[depth] == token.token_id
