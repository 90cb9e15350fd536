"""The end of the pipeline: what the last stage knows of the sequences in the slots, and tokens drawn with it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

from torch import Tensor

from exo_lite.domain.errors import MalformedStep
from exo_lite.domain.request import Logprobs, Sampling
from exo_lite.domain.step import Admission, SampledToken, SequenceChunk
from exo_lite.engine.torch_c.logprobs import logprobs_of
from exo_lite.engine.torch_c.penalties import ScoreChanges, changed_scores
from exo_lite.engine.torch_c.sampling import sample


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
        """Raises MalformedStep for tokens beyond the vocabulary; the slots are then nobody's."""
        for admission in admissions:
            self._samplings.pop(admission.slot, None)
            self._changes.pop(admission.slot, None)
        for admission in admissions:
            self._check_token_ids(admission)
        for admission in admissions:
            sampling = self._samplings[admission.slot] = admission.sampling
            if sampling.changes_scores:
                changes = ScoreChanges(sampling, admission.prompt_token_ids, admission.answer_token_ids)
                self._changes[admission.slot] = changes

    def draw(self, logits: Tensor, chunks: Sequence[SequenceChunk]) -> tuple[SampledToken, ...]:
        """A token after each chunk, and one more for each of its proposals that was the token drawn before it.

        logits: float32 [draws of all chunks, vocab_size]. Every chunk has its `sample_index`.
        """
        first_rows = [0, *accumulate(chunk.num_draws for chunk in chunks)]
        drawn: list[list[SampledToken]] = [[] for _ in chunks]
        going, depth = list(range(len(chunks))), 0
        while going:
            rows = logits[[first_rows[one] + depth for one in going]] if len(going) < len(logits) else logits
            for one, token in zip(going, self._draw_next(rows, [chunks[one] for one in going], depth), strict=True):
                drawn[one].append(token)
            going = [one for one in going if _is_right(chunks[one], depth, drawn[one][-1])]
            depth += 1
        return tuple(token for tokens in drawn for token in tokens)

    def _draw_next(self, logits: Tensor, chunks: Sequence[SequenceChunk], depth: int) -> list[SampledToken]:
        """The token at `depth` after each chunk's `sample_index`. logits: [chunks, vocab_size]."""
        slots = [chunk.slot for chunk in chunks]
        samplings = [self._samplings[slot] for slot in slots]
        scores = changed_scores(logits, [self._changes.get(slot) for slot in slots])
        token_ids = sample(scores, samplings, [(chunk.sample_index or 0) + depth for chunk in chunks])
        for slot, token_id in zip(slots, token_ids, strict=True):
            if slot in self._changes:
                self._changes[slot].add(token_id)
        logprobs = logprobs_of(logits, samplings, token_ids)
        return [SampledToken(*one) for one in zip(slots, token_ids, logprobs, strict=True)]

    def score(self, logits: Tensor, slot: int, token_ids: Sequence[int]) -> list[Logprobs]:
        """How likely each token is after the row of its place. logits: float32 [tokens, vocab_size].

        Raises MalformedStep.
        """
        sampling = self._samplings[slot]
        greatest = max(token_ids, default=0)
        if sampling.logprobs is None or greatest >= self._vocab_size:
            raise MalformedStep(f"slot {slot}: token id {greatest} can't be scored, or was not to be")
        found = logprobs_of(logits, [sampling] * len(token_ids), token_ids)
        return [one for one in found if one is not None]

    def check_admitted(self, chunks: Sequence[SequenceChunk]) -> None:
        """Raises MalformedStep."""
        unknown = [chunk.slot for chunk in chunks if chunk.slot not in self._samplings]
        if unknown:
            raise MalformedStep(f"slots {unknown} were never admitted")

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
