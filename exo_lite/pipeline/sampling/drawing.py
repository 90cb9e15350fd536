"""Drawing tokens: a pure function of scores, parameters and (seed, index), whatever else is in the batch."""

from __future__ import annotations

import hashlib
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from exo_lite.domain.request import Sampling

NUM_CANDIDATES = 512
"""Most likely tokens looked at first: sorting a whole vocabulary of 128k takes thirty times as long."""

Floats = NDArray[np.floating[Any]]
"""float32 logits, or float64 scores."""


def uniform(seed: int, index: int) -> float:
    """The number in [0, 1) that draws token `index`: 53 bits of BLAKE2b over (seed, index), with no state between."""
    message = seed.to_bytes(8, "little") + index.to_bytes(8, "little")
    digest = hashlib.blake2b(message, digest_size=8, key=b"exo-lite sampling").digest()
    return (int.from_bytes(digest, "little") >> 11) * 2.0**-53


def sample(
    scores: Sequence[Floats],
    samplings: Sequence[Sampling],
    indices: Sequence[int],
    greatest: Sequence[int | None] | None = None,
) -> list[int]:
    """Draw one token per row. scores: finite, of [vocab_size] each; `indices` count the tokens of each answer.

    Greedy takes the greatest score, the lowest id among equals; `greatest` has it where it is known already. Otherwise
    tokens stand in falling order of probability at the given temperature (equals by id); top_k, then top_p,
    then min_p keep the first of them, and `uniform` picks by cumulated probability. Bias and penalties come before this
    (`penalties`).
    """
    rows = zip(scores, samplings, indices, greatest or [None] * len(samplings), strict=True)
    return [_token(*row) for row in rows]


def _token(scores: Floats, sampling: Sampling, index: int, greatest: int | None) -> int:
    if sampling.is_greedy:
        return int(scores.argmax()) if greatest is None else greatest
    return _draw(scores, sampling, uniform(sampling.seed, index))


def _draw(scores: Floats, sampling: Sampling, draw: float) -> int:
    """The token of one row on which a number in [0, 1) falls. scores: [vocab_size]."""
    weights = _weights(scores, sampling.temperature)
    ranking = _ranking(scores, weights)
    position = _position(ranking, sampling, draw)
    return _draw_from_all(weights, sampling, draw) if position is None else ranking.ids[position]


def _weights(scores: Floats, temperature: float) -> NDArray[np.float64]:
    """Probabilities times their sum: float64 [vocab_size]. The greatest score becomes 0 first, which none overflows."""
    wide = scores.astype(np.float64)
    wide -= wide.max()
    with np.errstate(over="ignore", under="ignore"):  # -inf, of which the exponential is 0
        wide /= temperature
        return np.exp(wide, out=wide)


def likeliest(values: Floats, count: int) -> NDArray[np.intp]:
    """Ids of the greatest of [vocab_size] values, at most `count`, ascending.

    Of several that equal the last one, any may be missing.
    """
    if count >= len(values):
        return np.arange(len(values))
    last = np.partition(values, -count)[-count]
    above, equal = np.flatnonzero(values > last), np.flatnonzero(values == last)
    return np.sort(np.concatenate((above, equal[: count - len(above)])))


@dataclass(frozen=True, slots=True)
class _Ranking:
    """Tokens of one row in falling order of probability; only the first `num_certain` are sure of their place.

    values: [tokens], their probabilities; mass: the same cumulated.
    """

    ids: list[int]
    values: NDArray[np.float64]
    mass: list[float]
    num_certain: int


def _ranking(scores: Floats, weights: NDArray[np.float64]) -> _Ranking:
    """The most likely tokens.

    Tokens as likely as the last candidate may be missing, so those are not certain unless all tokens are here.
    """
    ids = likeliest(scores, NUM_CANDIDATES)
    values = weights[ids] / weights.sum()
    order = np.argsort(-values, kind="stable")
    values = values[order]
    num_certain = int((values > values[-1]).sum()) if len(scores) > NUM_CANDIDATES else len(scores)
    return _Ranking(ids[order].tolist(), values, values.cumsum().tolist(), num_certain)


def _position(ranking: _Ranking, sampling: Sampling, draw: float) -> int | None:
    """Return where the draw falls in cumulated probabilities; None if that takes more than the certain ones."""
    mass, num_certain = ranking.mass, ranking.num_certain
    kept = 1.0
    if sampling.top_k:
        if sampling.top_k > num_certain:
            return None
        kept = mass[sampling.top_k - 1]
    if sampling.top_p < 1.0:
        last = bisect_left(mass, sampling.top_p * kept)
        if last >= num_certain:
            return None
        kept = mass[last]
    if sampling.min_p > 0.0:
        num_likely = int((ranking.values >= sampling.min_p * ranking.values[0]).sum())
        if num_likely > num_certain:
            return None
        kept = min(kept, mass[num_likely - 1])
    position = bisect_right(mass, draw * kept)
    return position if position < num_certain else None


def _draw_from_all(weights: NDArray[np.float64], sampling: Sampling, draw: float) -> int:
    """The same for one row with every token in order."""
    ids = np.argsort(-weights, kind="stable")
    values = weights[ids] / weights.sum()
    mass: list[float] = values.cumsum().tolist()
    last = bisect_left(mass, mass[-1])
    mass[last:] = [max(1.0, mass[-1])] * (len(mass) - last)  # rounding leaves the sum a little off 1
    ranking = _Ranking(ids.tolist(), values, mass, len(mass))
    position = _position(ranking, replace(sampling, top_k=min(sampling.top_k, len(mass))), draw)
    return ranking.ids[last if position is None else position]
