"""Log probabilities of sampled tokens and of the likeliest ones, as the model itself gives them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from exo_lite.domain.request import MAX_TOP_LOGPROBS, Logprobs, Sampling
from exo_lite.pipeline.sampling.drawing import Floats, likeliest


def logprobs_of(logits: Floats, samplings: Sequence[Sampling], token_ids: Sequence[int]) -> list[Logprobs | None]:
    """Log probabilities of the token sampled in each row that asks for them.

    logits: unchanged, finite float32 [rows, vocab_size]. Equally likely tokens stand in order of their ids. A row's
    numbers don't depend on the others.
    """
    rows = zip(logits, samplings, token_ids, strict=True)
    return [
        None if sampling.logprobs is None else _logprobs(row, token_id, sampling.logprobs)
        for row, sampling, token_id in rows
    ]


def _logprobs(logits: Floats, token_id: int, num_top: int) -> Logprobs:
    """logits: [vocab_size].

    As many are looked at, whoever asks for how many: which of several equal ones are in must not depend on it.
    """
    ids = likeliest(logits, MAX_TOP_LOGPROBS)
    values = logits[[token_id, *ids]].astype(np.float64) - _log_sum(logits)
    own, top = values[0], values[1:]
    order = np.argsort(-top, kind="stable")[:num_top]
    return Logprobs(float(own), tuple(zip(ids[order].tolist(), top[order].tolist(), strict=True)))


def _log_sum(logits: Floats) -> float:
    """The logarithm of the sum of exponentials."""
    wide: NDArray[np.float64] = logits.astype(np.float64)
    greatest = float(wide.max())
    wide -= greatest
    with np.errstate(under="ignore"):
        return greatest + float(np.log(np.exp(wide, out=wide).sum()))
