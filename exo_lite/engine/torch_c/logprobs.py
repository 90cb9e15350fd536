"""Log probabilities of sampled tokens and of the likeliest ones, as the model itself gives them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from exo_lite.domain.request import MAX_TOP_LOGPROBS, Logprobs, Sampling
from exo_lite.engine.torch_c.sampling import likeliest


def logprobs_of(logits: Tensor, samplings: Sequence[Sampling], token_ids: Sequence[int]) -> list[Logprobs | None]:
    """Return log probabilities of the sampled token of each row that asks. logits: finite float32 [rows, vocab_size].

    Equally likely tokens stand in order of their ids. A row's numbers don't depend on the others.
    """
    found: list[Logprobs | None] = [None] * len(samplings)
    asking = [row for row, sampling in enumerate(samplings) if sampling.logprobs is not None]
    if not asking:
        return found
    logarithms = torch.log_softmax(logits[asking].cpu().double(), dim=-1)
    chosen = logarithms.gather(-1, torch.tensor([[token_ids[row]] for row in asking])).squeeze(-1).tolist()
    for row, own, top in zip(asking, chosen, _top(logarithms), strict=True):
        found[row] = Logprobs(own, tuple(top[: samplings[row].logprobs]))
    return found


def _top(logarithms: Tensor) -> list[list[tuple[int, float]]]:
    """Compute MAX_TOP_LOGPROBS every time, so that ties are broken the same way whatever number was asked for."""
    ids, values = likeliest(logarithms, min(MAX_TOP_LOGPROBS, logarithms.shape[-1]))
    return [list(zip(*row, strict=True)) for row in zip(ids.tolist(), values.tolist(), strict=True)]
