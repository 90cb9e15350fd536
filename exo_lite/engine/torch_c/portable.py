"""The exact engine's operations in plain torch, where the C kernels cannot be had: slower.

As exact: a row never depends on others. Quantizing and products give the very bits of the C kernels; norms and
attention add in another order, so one model's stages should all run on the one or all on the other.

Integer products go through float32 in pieces so short that every partial sum is a whole number below 2**24: exact on
any device, in any order.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812 - the name that every torch program gives it
from torch import Tensor

from exo_lite.domain.step import KV_BLOCK_TOKENS
from exo_lite.engine.torch_c.quantized import QuantizedLinear
from exo_lite.engine.torch_c.weight_format import MAX_Q

EXACT_INPUTS = 1024
"""Products of two int8 that float32 adds without rounding: 1024 · 128 · 127 < 2**24."""


@dataclass(frozen=True, slots=True, eq=False)
class Activations:
    """Rows in bytes: x = scales · (256 · high + low), or scales · high alone.

    bytes: int8 [2 rows, k], the high ones of all rows first, or [rows, k].
    """

    bytes: Tensor
    scales: Tensor


def quantize(x: Tensor, norm: Tensor | None, eps: float, activation_bytes: int = 2) -> Activations:
    """x: float32 [rows, k], normed first where `norm` is given."""
    if norm is not None:
        x = x * torch.rsqrt(x.square().mean(dim=-1, keepdim=True) + eps) * norm
    most = x.abs().amax(dim=-1)
    # a scalar divided by a tensor would become its reciprocal times the scalar, which rounds twice
    inverse = torch.where(most > 0, torch.full_like(most, MAX_Q[activation_bytes]) / most, 0.0)
    q = (x * inverse.unsqueeze(1)).round_().to(torch.int32)
    if activation_bytes == 1:
        return Activations(q.to(torch.int8), most / MAX_Q[1])
    high = (q + 128) >> 8
    return Activations(torch.cat((high, q - 256 * high)).to(torch.int8), most / MAX_Q[2])


def linear(w: QuantizedLinear, x: Activations) -> Tensor:
    """float32 [rows, num_outputs]."""
    y = _product(w, x)
    return y if w.bias is None else y + w.bias[: w.num_outputs]


def _product(w: QuantizedLinear, x: Activations) -> Tensor:
    weight = w.integers()[:, : w.num_inputs]
    sums = torch.zeros((x.bytes.shape[0], w.num_outputs), dtype=torch.int64, device=weight.device)
    for start in range(0, w.num_inputs, EXACT_INPUTS):
        part = slice(start, start + EXACT_INPUTS)
        sums += (x.bytes[:, part].float() @ weight[:, part].float().t()).to(torch.int64)
    return _joined(sums, x).float() * x.scales.unsqueeze(1) * w.scale[: w.num_outputs]


def _joined(sums: Tensor, x: Activations) -> Tensor:
    """One sum a row, of those of its bytes."""
    num_rows = x.scales.shape[0]
    return sums if sums.shape[0] == num_rows else 256 * sums[:num_rows] + sums[num_rows:]


def attend_row(query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """One token's attention, in the same order of sums whatever is computed beside it.

    query: float32 [heads, head_dim]; keys, values: [kv_heads, length, head_dim]. Returns [heads * head_dim].
    """
    num_kv_heads, length, head_dim = keys.shape
    padding = -length % KV_BLOCK_TOKENS
    grouped = query.view(num_kv_heads, -1, head_dim) / head_dim**0.5
    scores = torch.bmm(grouped, F.pad(keys.float(), (0, 0, 0, padding)).transpose(1, 2))
    scores[..., length:] = -torch.inf
    weights = torch.softmax(scores, dim=-1)
    return torch.bmm(weights, F.pad(values.float(), (0, 0, 0, padding))).view(-1)
