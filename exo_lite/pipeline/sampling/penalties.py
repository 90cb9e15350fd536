"""Changes to scores before a token is drawn: bias, repetition, presence and frequency penalties, ends that come early.

Only the few scores concerned are touched.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from exo_lite.domain.request import Sampling
from exo_lite.pipeline.sampling.drawing import Floats

NEVER = -1e300
"""A score that no other one comes near. With infinity, a row of nothing else would be no distribution."""


class ScoreChanges:
    """The changes that one sequence's sampling makes to its scores, with the tokens that count for it."""

    def __init__(self, sampling: Sampling, prompt_token_ids: Sequence[int], answer_token_ids: Sequence[int]) -> None:
        self._sampling = sampling
        self._bias_ids = _ids([token_id for token_id, _ in sampling.logit_bias])
        self._biases = np.array([bias for _, bias in sampling.logit_bias], dtype=np.float64)
        self._late_ids = _ids(sampling.late_token_ids)
        self._prompt_ids = _ids(prompt_token_ids)
        self._answer = Counter(answer_token_ids)
        self._num_answered = len(answer_token_ids)

    def add(self, token_id: int) -> None:
        """Count a token that was sampled."""
        self._answer[token_id] += 1
        self._num_answered += 1

    def applied(self, logits: Floats) -> NDArray[np.float64]:
        """The scores of one row, [vocab_size], with the changes: wide enough for any penalty on any finite logit.

        Repetition as in CTRL (Keskar et al. 2019, arXiv:1909.05858), but so that it lowers negative scores too. All ids
        must lie within the vocabulary.
        """
        sampling, scores = self._sampling, logits.astype(np.float64)
        np.add.at(scores, self._bias_ids, self._biases)
        if sampling.needs_prompt:
            _repeat_less(scores, np.concatenate((self._prompt_ids, self._answer_ids)), sampling.repetition_penalty)
        if sampling.presence_penalty != 0.0 or sampling.frequency_penalty != 0.0:
            counts = np.fromiter(self._answer.values(), dtype=np.float64, count=len(self._answer))
            scores[self._answer_ids] -= sampling.presence_penalty + sampling.frequency_penalty * counts
        if self._num_answered < sampling.min_tokens:
            scores[self._late_ids] = NEVER
        return scores

    @property
    def _answer_ids(self) -> NDArray[np.int64]:
        """Tokens of the answer, each once."""
        return np.fromiter(self._answer, dtype=np.int64, count=len(self._answer))


def _repeat_less(scores: NDArray[np.float64], token_ids: NDArray[np.int64], penalty: float) -> None:
    """token_ids: some may stand there twice, and count once."""
    found = scores[token_ids]
    scores[token_ids] = np.where(found > 0, found / penalty, found * penalty)


def _ids(token_ids: Sequence[int]) -> NDArray[np.int64]:
    return np.array(token_ids, dtype=np.int64)
