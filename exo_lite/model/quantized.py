"""Weights as integers, in the tiles that the C kernels read one behind the other.

int8: a byte per weight and a scale per output channel. int4: half a byte, from which the byte comes back: groups of
inputs have a step and a minimum each, on the channel's own grid of bytes. Products and sums of integers are exact in
every order, so that a row's result never depends on what is multiplied beside it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from exo_lite.model.huge_pages import advise_huge_pages

GROUP_SIZE = 32
"""Neighbouring inputs that share a step and a minimum in int4; every channel is padded to whole groups."""
TILE = 16
"""Output channels that stand together."""
Kind = Literal["int8", "int4"]

WEIGHT_OFFSET = 128
"""Added to int8 weights: the kernels multiply unsigned by signed bytes."""
_BLOCK_ROWS = 512
"""Output channels quantized at once: what is float at one time stays small."""
_MAX_Q4 = 15
_STEP_PARTS = 16
"""Of a byte, that an int4 step counts in."""
_MAX_STEP = 255
_ROUNDED_DOWN = (torch.arange(_MAX_STEP + 1).outer(torch.arange(16)) % _STEP_PARTS / _STEP_PARTS).mean(1)
"""By step, what rounding down takes off a byte in the mean."""
_SWAPPED = [1, 0, 3, 2]
"""Four inputs of int4, as the kernels unpack them with the fewest instructions."""
_MAX_INT8 = 127
_MAX_INT4 = 119
"""The greatest step reaches over a channel's whole range: 15 · 255 / 16 = 2 · 119 + 1."""


def padded(size: int, unit: int) -> int:
    """The next multiple of a unit."""
    return -(-size // unit) * unit


@dataclass(frozen=True, slots=True, eq=False)
class QuantizedLinear:
    """y = W x + bias, for W of [num_outputs, num_inputs], here [n, k] padded to whole tiles and groups.

    W = scale · (byte - 128). int8: the bytes are weight: uint8 [n / 16, k / 4, 16, 4].
    int4: byte = floor(steps · q / 16) + minima; q are the halves of weight: uint8 [n / 16, k / 8, 16, 4], inputs
    8 i + 1, 0, 3, 2 in the low ones, 8 i + 5, 4, 7, 6 in the high ones; steps, minima: uint8 [n / 16, k / 32, 16].
    scale, bias: float32 [n].
    """

    kind: Kind
    num_outputs: int
    num_inputs: int
    weight: Tensor
    scale: Tensor
    steps: Tensor | None = None
    minima: Tensor | None = None
    bias: Tensor | None = None

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        optional = (self.steps, self.minima, self.bias)
        return (self.weight, self.scale, *(tensor for tensor in optional if tensor is not None))

    def to(self, device: torch.device) -> QuantizedLinear:
        parts = (self.weight, self.scale, self.steps, self.minima, self.bias)
        weight, scale, *optional = (None if part is None else part.to(device) for part in parts)
        assert weight is not None
        assert scale is not None
        return QuantizedLinear(self.kind, self.num_outputs, self.num_inputs, weight, scale, *optional)

    def integers(self) -> Tensor:
        """The weights as whole numbers of the channels' scales: int16 [num_outputs, k]."""
        tiles = self.weight.short()
        if self.steps is not None and self.minima is not None:
            q = torch.stack((tiles & 15, tiles >> 4), dim=2).flatten(1, 2)[..., _SWAPPED]
            steps, minima = (x.repeat_interleave(GROUP_SIZE // 4, 1).unsqueeze(3) for x in (self.steps, self.minima))
            tiles = (q * steps // _STEP_PARTS + minima).short()
        return (tiles - WEIGHT_OFFSET).transpose(1, 2).flatten(2).flatten(0, 1)[: self.num_outputs]

    def dequantized(self) -> Tensor:
        """The weights that it stands for: float32 [num_outputs, num_inputs]."""
        return (self.integers() * self.scale[: self.num_outputs, None])[:, : self.num_inputs]


def empty_linear(kind: Kind, num_outputs: int, num_inputs: int, *, has_bias: bool = False) -> QuantizedLinear:
    """Zeros, to be filled by `quantize_rows`."""
    n, k = padded(num_outputs, TILE), padded(num_inputs, GROUP_SIZE)
    scale, bias = torch.zeros(n), torch.zeros(n) if has_bias else None
    if kind == "int8":
        weight = advise_huge_pages(torch.zeros((n // TILE, k // 4, TILE, 4), dtype=torch.uint8))
        return QuantizedLinear(kind, num_outputs, num_inputs, weight, scale, bias=bias)
    weight = advise_huge_pages(torch.zeros((n // TILE, k // 8, TILE, 4), dtype=torch.uint8))
    steps, minima = (torch.zeros((n // TILE, k // GROUP_SIZE, TILE), dtype=torch.uint8) for _ in range(2))
    return QuantizedLinear(kind, num_outputs, num_inputs, weight, scale, steps, minima, bias)


def quantize_rows(target: QuantizedLinear, rows: Tensor, weight: Tensor) -> None:
    """Fill some output channels. rows: their numbers, int64; weight: any float type, [rows, num_inputs]."""
    for start in range(0, weight.shape[0], _BLOCK_ROWS):
        part = slice(start, start + _BLOCK_ROWS)
        _quantize_block(target, rows[part], weight[part].float())


def _quantize_block(target: QuantizedLinear, rows: Tensor, block: Tensor) -> None:
    tiles, lanes = rows // TILE, rows % TILE
    scale = block.abs().amax(dim=1) / (_MAX_INT8 if target.kind == "int8" else _MAX_INT4)
    target.scale[rows] = scale
    units = _with_padding(block / torch.where(scale > 0, scale, 1.0).unsqueeze(1))
    if target.steps is None or target.minima is None:
        bytes_ = units.round_().add_(WEIGHT_OFFSET).to(torch.uint8)
    else:
        q, target.steps[tiles, :, lanes], target.minima[tiles, :, lanes] = _to_int4(units)
        eights = q.view(q.shape[0], -1, 2, 4)[..., _SWAPPED]
        bytes_ = (eights[:, :, 0] | (eights[:, :, 1] << 4)).flatten(1)
    _fours(target.weight)[tiles, :, lanes] = _fours(bytes_)


def _with_padding(block: Tensor) -> Tensor:
    """[rows, num_inputs] with the last input repeated up to whole groups, which changes no group's range."""
    missing = -block.shape[1] % GROUP_SIZE
    return torch.cat((block, block[:, -1:].expand(-1, missing)), dim=1) if missing else block.contiguous()


def _fours(weight: Tensor) -> Tensor:
    """Four bytes as one number, so that they move together."""
    return weight.view(torch.int32).squeeze(-1)


def _to_int4(units: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """q [rows, k], steps and minima [rows, k / 32], all uint8, of weights [rows, k] in their channels' scales.

    Of several steps of a group the one of least error is taken. A group whose values lie on a grid of fewer than 16
    steps, as those of a model that was published in 4 bits, keeps that grid.
    """
    groups = units.view(units.shape[0], -1, GROUP_SIZE)
    low, high = groups.amin(dim=-1), groups.amax(dim=-1)
    best = torch.full_like(low, torch.inf)
    best_q, best_step, best_minimum = torch.zeros_like(groups), torch.zeros_like(low), torch.zeros_like(low)
    for num_steps in (15, 14, 13, 12, 11, 10, 9, 8, 16, 17, 18):  # what is beyond 15 is cut off at both ends
        step = ((high - low) / num_steps * _STEP_PARTS).round_().clamp_(max=_MAX_STEP)
        cut = max(num_steps - _MAX_Q4, 0) / 2 * step / _STEP_PARTS
        lost = _ROUNDED_DOWN[step.int()]
        minimum = (low + cut + lost).round_()
        q = _nearest(groups + lost.unsqueeze(-1), step, minimum)
        error = (_bytes_of(q, step, minimum) - groups).square_().sum(-1)
        is_better = error < best
        for kept, new in ((best, error), (best_step, step), (best_minimum, minimum)):
            kept.copy_(torch.where(is_better, new, kept))
        best_q = torch.where(is_better.unsqueeze(-1), q, best_q)
    parts = (best_q.view_as(units), best_step, best_minimum + WEIGHT_OFFSET)
    q, steps, minima = (part.to(torch.uint8) for part in parts)
    return q, steps, minima


def _nearest(groups: Tensor, step: Tensor, minimum: Tensor) -> Tensor:
    divisor = torch.where(step > 0, step, torch.inf).unsqueeze(-1)
    return ((groups - minimum.unsqueeze(-1)) * _STEP_PARTS / divisor).round_().clamp_(0, _MAX_Q4)


def _bytes_of(q: Tensor, step: Tensor, minimum: Tensor) -> Tensor:
    return (q * step.unsqueeze(-1) / _STEP_PARTS).floor_() + minimum.unsqueeze(-1)
