"""The end of the pipeline: what the last stage knows of each sequence, and tokens drawn with it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

from exo_lite.domain.errors import MalformedStep
from exo_lite.domain.request import Logprobs, Sampling
from exo_lite.domain.step import Admission, SampledToken, SequenceChunk
from exo_lite.engine.engine import Logits
from exo_lite.pipeline.sampling.drawing import Floats, sample
from exo_lite.pipeline.sampling.logprobs import logprobs_of
from exo_lite.pipeline.sampling.penalties import ScoreChanges, changed_scores


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
        first_rows = [0, *accumulate(chunk.num_draws for chunk in chunks)]
        drawn: list[list[SampledToken]] = [[] for _ in chunks]
        going, depth = list(range(len(chunks))), 0
        while going:
            rows = _some(logits, [first_rows[one] + depth for one in going])
            for one, token in zip(going, self._draw_next(rows, [chunks[one] for one in going], depth), strict=True):
                drawn[one].append(token)
            going = [one for one in going if _is_right(chunks[one], depth, drawn[one][-1])]
            depth += 1
        return tuple(token for tokens in drawn for token in tokens)

    def _draw_next(self, logits: Logits, chunks: Sequence[SequenceChunk], depth: int) -> list[SampledToken]:
        """The token at `depth` after each chunk's `sample_index`. logits: of a row per chunk."""
        indices = [chunk.sequence_index for chunk in chunks]
        samplings = [self._samplings[one] for one in indices]
        scores = changed_scores(logits.values, [self._changes.get(one) for one in indices])
        greatest = [
            None if index in self._changes else one for index, one in zip(indices, logits.greatest, strict=True)
        ]
        token_ids = sample(scores, samplings, [(chunk.sample_index or 0) + depth for chunk in chunks], greatest)
        for index, token_id in zip(indices, token_ids, strict=True):
            if index in self._changes:
                self._changes[index].add(token_id)
        logprobs = logprobs_of(logits.values, samplings, token_ids)
        return [SampledToken(*one) for one in zip(indices, token_ids, logprobs, strict=True)]

    def score(self, logits: Floats, sequence_index: int, token_ids: Sequence[int]) -> list[Logprobs]:
        """How likely each token is after the row of its place. logits: float32 [tokens, vocab_size].

        Raises MalformedStep.
        """
        sampling = self._samplings[sequence_index]
        greatest = max(token_ids, default=0)
        if sampling.logprobs is None or greatest >= self._vocab_size:
            raise MalformedStep(f"sequence {sequence_index}: token id {greatest} can't be scored, or was not to be")
        found = logprobs_of(logits, [sampling] * len(token_ids), token_ids)
        return [one for one in found if one is not None]

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


def _some(logits: Logits, rows: Sequence[int]) -> Logits:
    """Some of the rows, ascending."""
    if len(rows) == len(logits.greatest):
        return logits
    return Logits(logits.values[[*rows]], [logits.greatest[row] for row in rows])


def _is_right(chunk: SequenceChunk, depth: int, token: SampledToken) -> bool:
    """Say whether the token at `depth` is the one that was proposed."""
    proposed = chunk.proposed_token_ids
    return depth < len(proposed) and proposed[depth] == token.token_id
