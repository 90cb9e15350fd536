"""Drawing tokens: a pure function of scores, parameters and (seed, index), whatever else is in the batch."""

from __future__ import annotations

import hashlib
from bisect import bisect_left, bisect_right
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from exo_lite.domain.request import Sampling

NUM_CANDIDATES = 512
"""Most likely tokens looked at first: sorting a whole vocabulary of 128k takes thirty times as long."""
MORE_CANDIDATES = 16
"""Times as many are looked at next, before all are."""

COLUMN_VALUES = 32
"""Values of which at first only the greatest counts."""

Floats = NDArray[np.floating[Any]]
"""float32 logits, or float64 scores."""


def uniform(seed: int, index: int) -> float:
    """The number in [0, 1) that draws token `index`: 53 bits of BLAKE2b over (seed, index), with no state between."""
    message = seed.to_bytes(8, "little") + index.to_bytes(8, "little")
    digest = hashlib.blake2b(message, digest_size=8, key=b"exo-lite sampling").digest()
    return (int.from_bytes(digest, "little") >> 11) * 2.0**-53


def draw_token(scores: Floats, sampling: Sampling, index: int) -> int:
    """Draw token `index` of an answer. scores: finite, [vocab_size].

    Greedy takes the greatest score, the lowest id among equals. Otherwise tokens stand in falling order of probability
    at the given temperature (equals by id); top_k, then top_p, then min_p keep the first of them, and `uniform` picks
    by cumulated probability. Bias and penalties come before this (`penalties`).
    """
    if sampling.is_greedy:
        return int(scores.argmax())
    return _draw(scores, sampling, uniform(sampling.seed, index))


def _draw(scores: Floats, sampling: Sampling, draw: float) -> int:
    """The token of one row on which a number in [0, 1) falls. scores: [vocab_size]."""
    weights = _weights(scores, sampling.temperature)
    for count in (NUM_CANDIDATES, NUM_CANDIDATES * MORE_CANDIDATES):
        ranking = _ranking(scores, weights, count)
        position = _position(ranking, sampling, draw)
        if position is not None:
            return ranking.ids[position]
    return _draw_from_all(weights, sampling, draw)


def _weights(scores: Floats, temperature: float) -> NDArray[np.float64]:
    """Probabilities times their sum: float64 [vocab_size]. The greatest score becomes 0 first, which none overflows."""
    greatest = scores.max()
    wide = scores.astype(np.float64)
    wide -= greatest
    with np.errstate(over="ignore", under="ignore"):  # -inf, of which the exponential is 0
        wide /= temperature
        return np.exp(wide, out=wide)


def likeliest(values: Floats, count: int) -> NDArray[np.intp]:
    """Ids of the greatest of [vocab_size] values, at most `count`, ascending.

    Of several that equal the last one, any may be missing.
    """
    if count >= len(values):
        return np.arange(len(values))
    ids = _candidates(values, count)
    found = values[ids]
    last = np.partition(found, -count)[-count]
    above, equal = ids[found > last], ids[found == last]
    return np.sort(np.concatenate((above, equal[: count - len(above)])))


def _candidates(values: Floats, count: int) -> NDArray[np.intp]:
    """Ids of values among which the `count` greatest are, ascending; mostly few more.

    The greatest values of `count` columns are a bound from below. To find them takes a tenth of a partition's time.
    """
    num_columns = len(values) // COLUMN_VALUES
    if num_columns <= count:
        return np.arange(len(values))
    greatest = values[: num_columns * COLUMN_VALUES].reshape(COLUMN_VALUES, num_columns).max(axis=0)
    return np.flatnonzero(values >= np.partition(greatest, -count)[-count])


@dataclass(frozen=True, slots=True)
class _Ranking:
    """Tokens of one row in falling order of probability; only the first `num_certain` are sure of their place.

    values: [tokens], their probabilities; mass: the same cumulated.
    """

    ids: list[int]
    values: NDArray[np.float64]
    mass: list[float]
    num_certain: int


def _ranking(scores: Floats, weights: NDArray[np.float64], count: int) -> _Ranking:
    """The `count` most likely tokens.

    Tokens as likely as the last candidate may be missing, so those are not certain unless all tokens are here.
    """
    ids = likeliest(scores, count)
    values = weights[ids] / weights.sum()
    order = np.argsort(-values, kind="stable")
    values = values[order]
    num_certain = int((values > values[-1]).sum()) if len(scores) > count else len(scores)
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
