"""Log probabilities of sampled tokens and of the likeliest ones, as the model itself gives them."""

from __future__ import annotations

import numpy as np

from exo_lite.domain.request import MAX_TOP_LOGPROBS, Logprobs
from exo_lite.engine.engine import Logits
from exo_lite.pipeline.sampling.drawing import likeliest


def logprobs_of(logits: Logits, row: int, token_id: int, num_top: int) -> Logprobs:
    """Log probabilities of a row's token and of its likeliest ones. Equally likely tokens stand in order of their ids.

    As many are looked at, whoever asks for how many: which of several equal ones are in must not depend on it.
    """
    values, log_sum = logits.values[row], logits.log_sum(row)
    ids = likeliest(values, MAX_TOP_LOGPROBS)
    top = values[ids].astype(np.float64) - log_sum
    order = np.argsort(-top, kind="stable")[:num_top]
    chosen = float(values[token_id]) - log_sum
    return Logprobs(chosen, tuple(zip(ids[order].tolist(), top[order].tolist(), strict=True)))
