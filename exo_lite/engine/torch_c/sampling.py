"""Drawing tokens: a pure function of scores, parameters and (seed, index), whatever else is in the batch."""

from __future__ import annotations

import hashlib
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from exo_lite.domain.request import Sampling
from exo_lite.engine.torch_c.native.rows import greatest, is_quick

NUM_CANDIDATES = 512
"""Most likely tokens looked at first: sorting a whole vocabulary of 128k takes thirty times as long."""


def uniform(seed: int, index: int) -> float:
    """The number in [0, 1) that draws token `index`: 53 bits of BLAKE2b over (seed, index), with no state between."""
    message = seed.to_bytes(8, "little") + index.to_bytes(8, "little")
    digest = hashlib.blake2b(message, digest_size=8, key=b"exo-lite sampling").digest()
    return (int.from_bytes(digest, "little") >> 11) * 2.0**-53


def sample(logits: Tensor, samplings: Sequence[Sampling], indices: Sequence[int]) -> list[int]:
    """Draw one token per row. logits: finite, [rows, vocab_size]; `indices` count the tokens of each answer.

    Greedy takes the greatest score, the lowest id among equals. Otherwise tokens stand in falling order of probability
    at the given temperature (equals by id); top_k, then top_p, then min_p keep the first of them, and `uniform` picks
    by cumulated probability. Bias and penalties come before this (`model.penalties`).
    """
    tokens = greatest(logits) if is_quick(logits) else logits.argmax(dim=-1).tolist()
    drawn = [row for row, sampling in enumerate(samplings) if not sampling.is_greedy]
    if not drawn:
        return tokens
    probabilities = _probabilities(logits[drawn].cpu(), [samplings[row].temperature for row in drawn])
    for place, (row, ranking) in enumerate(zip(drawn, _rankings(probabilities), strict=True)):
        draw = uniform(samplings[row].seed, indices[row])
        position = _position(ranking, samplings[row], draw)
        if position is None:
            tokens[row] = _draw_from_all(probabilities[place], samplings[row], draw)
        else:
            tokens[row] = ranking.ids[position]
    return tokens


def _probabilities(logits: Tensor, temperatures: Sequence[float]) -> Tensor:
    """float64 [rows, vocab_size]. The greatest score becomes 0 first, so that no small temperature overflows."""
    wide = logits.double()
    scale = torch.tensor(temperatures, dtype=torch.float64).unsqueeze(1)
    return torch.softmax((wide - wide.amax(dim=-1, keepdim=True)) / scale, dim=-1)


def likeliest(values: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Ids and values of the greatest of each row in falling order, equals by id: [rows, count] each.

    Of several that equal the last one, any may be missing.
    """
    ids = values.topk(count, sorted=False).indices.sort(dim=-1).values
    greatest, order = values.gather(-1, ids).sort(dim=-1, descending=True, stable=True)
    return ids.gather(-1, order), greatest


@dataclass(frozen=True, slots=True)
class _Ranking:
    """Tokens of one row in falling order of probability; only the first `num_certain` are sure of their place.

    values: [tokens], their probabilities; mass: the same cumulated.
    """

    ids: list[int]
    values: Tensor
    mass: list[float]
    num_certain: int


def _rankings(probabilities: Tensor) -> list[_Ranking]:
    """The most likely tokens of each row.

    Tokens as likely as the last candidate may be missing, so those are not certain unless all tokens are here.
    """
    vocab_size = probabilities.shape[-1]
    ids, values = likeliest(probabilities, min(NUM_CANDIDATES, vocab_size))
    is_certain = values > values[:, -1:] if vocab_size > NUM_CANDIDATES else torch.ones_like(values, dtype=torch.bool)
    rows = zip(ids.tolist(), values, values.cumsum(dim=-1).tolist(), is_certain.sum(dim=-1).tolist(), strict=True)
    return [_Ranking(*row) for row in rows]


def _position(ranking: _Ranking, sampling: Sampling, draw: float) -> int | None:
    """Find where the draw falls in the cumulated probabilities; None if that needs more than the certain ones."""
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


def _draw_from_all(probabilities: Tensor, sampling: Sampling, draw: float) -> int:
    """The same for one row with every token in order."""
    values, ids = probabilities.sort(descending=True, stable=True)
    mass: list[float] = values.cumsum(dim=-1).tolist()
    last = bisect_left(mass, mass[-1])
    mass[last:] = [max(1.0, mass[-1])] * (len(mass) - last)  # rounding leaves the sum a little off 1
    ranking = _Ranking(ids.tolist(), values, mass, len(mass))
    position = _position(ranking, replace(sampling, top_k=min(sampling.top_k, len(mass))), draw)
    return ranking.ids[last if position is None else position]
