"""Changes to scores before a token is drawn: bias, repetition, presence and frequency penalties, ends that come early.

Only the few scores concerned are touched, those of all rows of a batch at once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor

from exo_lite.domain.request import Sampling

NEVER = -1e300
"""A score that no other one comes near. With infinity, a row of nothing else would be no distribution."""

Entries = list[tuple[int, Tensor, Tensor | float]]
"""(row, token ids of that row, a value for each or for all of them)."""


class ScoreChanges:
    """The changes that one sequence's sampling makes to its scores, with the tokens that count for them."""

    def __init__(self, sampling: Sampling, prompt_token_ids: Sequence[int], answer_token_ids: Sequence[int]) -> None:
        self.sampling = sampling
        self.bias_ids = torch.tensor([token_id for token_id, _ in sampling.logit_bias], dtype=torch.int64)
        self.late_ids = torch.tensor(sampling.late_token_ids, dtype=torch.int64)
        self.biases = torch.tensor([bias for _, bias in sampling.logit_bias], dtype=torch.float64)
        self._prompt_ids = torch.tensor(prompt_token_ids, dtype=torch.int64)
        self._answer = Counter(answer_token_ids)
        self._num_answered = len(answer_token_ids)

    def add(self, token_id: int) -> None:
        """Count a token that was sampled."""
        self._answer[token_id] += 1
        self._num_answered += 1

    @property
    def is_early(self) -> bool:
        """True while the next token may not end the answer."""
        return self._num_answered < self.sampling.min_tokens

    @property
    def answer_ids(self) -> Tensor:
        """int64 [tokens], each once."""
        return torch.tensor(list(self._answer), dtype=torch.int64)

    @property
    def seen_ids(self) -> Tensor:
        """The ids of prompt and answer, int64 [tokens], perhaps repeated."""
        return torch.cat([self._prompt_ids, self.answer_ids])

    @property
    def answer_penalties(self) -> Tensor:
        """The presence and frequency penalties of `answer_ids`, float64 [tokens]."""
        counts = torch.tensor(list(self._answer.values()), dtype=torch.float64)
        return self.sampling.presence_penalty + self.sampling.frequency_penalty * counts


def changed_scores(logits: Tensor, changes: Sequence[ScoreChanges | None]) -> Tensor:
    """Scores [rows, vocab_size] with each row's changes; the very logits if no row has any.

    Repetition as in CTRL (Keskar et al. 2019, arXiv:1909.05858), but so that it lowers negative scores too. All ids
    must lie within the vocabulary.
    """
    changing = [(row, one) for row, one in enumerate(changes) if one is not None]
    if not changing:
        return logits
    scores = logits.cpu().to(torch.float64, copy=True)  # wide enough for any penalty on any finite score
    _add(scores, [(row, one.bias_ids, one.biases) for row, one in changing if one.sampling.logit_bias])
    repeating = [(row, one) for row, one in changing if one.sampling.needs_prompt]
    _repeat_less(scores, [(row, one.seen_ids, one.sampling.repetition_penalty) for row, one in repeating])
    counting = [(row, one) for row, one in changing if _counts_answer(one.sampling)]
    _add(scores, [(row, one.answer_ids, -one.answer_penalties) for row, one in counting])
    for row, one in changing:
        if one.is_early:
            scores[row, one.late_ids] = NEVER
    return scores


def _counts_answer(sampling: Sampling) -> bool:
    return sampling.presence_penalty != 0.0 or sampling.frequency_penalty != 0.0


def _add(scores: Tensor, entries: Entries) -> None:
    if entries:
        places, amounts = _flat(entries, scores.shape[1])
        scores.view(-1).index_add_(0, places, amounts)


def _repeat_less(scores: Tensor, entries: Entries) -> None:
    if entries:
        places, penalties = _flat(entries, scores.shape[1])
        found = scores.view(-1)[places]
        scores.view(-1)[places] = torch.where(found > 0, found / penalties, found * penalties)


def _flat(entries: Entries, vocab_size: int) -> tuple[Tensor, Tensor]:
    """Places in the scores of all rows laid end to end, and the value for each: int64 and float64 [entries]."""
    places = torch.cat([row * vocab_size + ids for row, ids, _ in entries])
    values = [torch.as_tensor(value, dtype=torch.float64).expand(len(ids)) for _, ids, value in entries]
    return places, torch.cat(values)
