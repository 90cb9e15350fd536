"""Weights as integers, in the tiles that the C kernels read one behind the other.

int8: a scale per output channel. int4: groups of inputs have a step and a minimum each, both bytes, of which a channel
has the scales. Products and sums of integers are exact in every order; those of an int4 row's groups are added in
theirs. So a row's result never depends on what is multiplied beside it.
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
_MAX_BYTE = 255


def padded(size: int, unit: int) -> int:
    """The next multiple of a unit."""
    return -(-size // unit) * unit


@dataclass(frozen=True, slots=True, eq=False)
class QuantizedLinear:
    """y = W x + bias, for W of [num_outputs, num_inputs], here [n, k] padded to whole tiles and groups.

    int8: W = scale · (weight - 128); weight: uint8 [n / 16, k / 4, 16, 4].
    int4: W = scale · steps · q - minimum · minima; weight: uint8 [n / 16, k / 8, 16, 4], inputs 8 i + 0..3 in the low
    halves, 8 i + 4..7 in the high ones; steps, minima: uint8 [n / 16, k / 32, 16].
    scale, minimum, bias: float32 [n].
    """

    kind: Kind
    num_outputs: int
    num_inputs: int
    weight: Tensor
    scale: Tensor
    steps: Tensor | None = None
    minima: Tensor | None = None
    minimum: Tensor | None = None
    bias: Tensor | None = None

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        optional = (self.steps, self.minima, self.minimum, self.bias)
        return (self.weight, self.scale, *(tensor for tensor in optional if tensor is not None))

    def to(self, device: torch.device) -> QuantizedLinear:
        parts = (self.weight, self.scale, self.steps, self.minima, self.minimum, self.bias)
        weight, scale, *optional = (None if part is None else part.to(device) for part in parts)
        assert weight is not None
        assert scale is not None
        return QuantizedLinear(self.kind, self.num_outputs, self.num_inputs, weight, scale, *optional)

    def integers(self) -> Tensor:
        """Of int8 the weights without their offset, of int4 q: int16 [num_outputs, k]."""
        if self.kind == "int8":
            tiles = self.weight.short() - WEIGHT_OFFSET
        else:
            tiles = torch.stack((self.weight & 15, self.weight >> 4), dim=2).flatten(1, 2).short()
        return tiles.transpose(1, 2).flatten(2).flatten(0, 1)[: self.num_outputs]

    def per_group(self, parts: Tensor) -> Tensor:
        """Steps or minima as float32 [num_outputs, k / 32]."""
        return parts.transpose(1, 2).flatten(0, 1)[: self.num_outputs].float()

    def dequantized(self) -> Tensor:
        """The weights that it stands for: float32 [num_outputs, num_inputs]."""
        scale = self.scale[: self.num_outputs, None]
        integers = self.integers()
        if self.steps is None or self.minima is None or self.minimum is None:
            return (integers * scale)[:, : self.num_inputs]
        steps, minima = self.per_group(self.steps) * scale, self.per_group(self.minima)
        minima *= self.minimum[: self.num_outputs, None]
        groups = integers.view(self.num_outputs, -1, GROUP_SIZE) * steps.unsqueeze(-1) - minima.unsqueeze(-1)
        return groups.flatten(1)[:, : self.num_inputs]


def empty_linear(kind: Kind, num_outputs: int, num_inputs: int, *, has_bias: bool = False) -> QuantizedLinear:
    """Zeros, to be filled by `quantize_rows`."""
    n, k = padded(num_outputs, TILE), padded(num_inputs, GROUP_SIZE)
    scale, bias = torch.zeros(n), torch.zeros(n) if has_bias else None
    if kind == "int8":
        weight = advise_huge_pages(torch.zeros((n // TILE, k // 4, TILE, 4), dtype=torch.uint8))
        return QuantizedLinear(kind, num_outputs, num_inputs, weight, scale, bias=bias)
    weight = advise_huge_pages(torch.zeros((n // TILE, k // 8, TILE, 4), dtype=torch.uint8))
    steps, minima = (torch.zeros((n // TILE, k // GROUP_SIZE, TILE), dtype=torch.uint8) for _ in range(2))
    return QuantizedLinear(kind, num_outputs, num_inputs, weight, scale, steps, minima, torch.zeros(n), bias)


def quantize_rows(target: QuantizedLinear, rows: Tensor, weight: Tensor) -> None:
    """Fill some output channels. rows: their numbers, int64; weight: any float type, [rows, num_inputs]."""
    for start in range(0, weight.shape[0], _BLOCK_ROWS):
        part = slice(start, start + _BLOCK_ROWS)
        _quantize_block(target, rows[part], weight[part].float())


def _quantize_block(target: QuantizedLinear, rows: Tensor, block: Tensor) -> None:
    tiles, lanes = rows // TILE, rows % TILE
    if target.steps is None or target.minima is None or target.minimum is None:
        scale = block.abs().amax(dim=1) / 127
        q = (block / torch.where(scale > 0, scale, 1.0).unsqueeze(1)).round_().add_(WEIGHT_OFFSET).to(torch.uint8)
        target.scale[rows] = scale
        _fours(target.weight)[tiles, :, lanes] = _fours(_with_padding(q))
        return
    q, steps, minima, scale, minimum = _to_int4(_with_padding(block))
    target.scale[rows], target.minimum[rows] = scale, minimum
    target.steps[tiles, :, lanes], target.minima[tiles, :, lanes] = steps, minima
    eights = q.view(q.shape[0], -1, 2, 4)
    _fours(target.weight)[tiles, :, lanes] = _fours((eights[:, :, 0] | (eights[:, :, 1] << 4)).flatten(1))


def _with_padding(block: Tensor) -> Tensor:
    """[rows, num_inputs] with the last input repeated up to whole groups, which changes no group's range."""
    missing = -block.shape[1] % GROUP_SIZE
    return torch.cat((block, block[:, -1:].expand(-1, missing)), dim=1) if missing else block.contiguous()


def _fours(weight: Tensor) -> Tensor:
    """Four bytes as one number, so that they move together."""
    return weight.view(torch.int32).squeeze(-1)


def _to_int4(x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """q [rows, k], steps and minima [rows, k / 32], all uint8, and the channels' scales of both, of x [rows, k]."""
    groups = x.view(x.shape[0], -1, GROUP_SIZE)
    step, minimum = _best_ranges(groups)
    steps, scale = _as_bytes(step)
    minima, minimum_scale = _as_bytes(minimum)
    q = _nearest(groups, steps * scale.unsqueeze(1), minima * minimum_scale.unsqueeze(1))
    return q.to(torch.uint8).view_as(x), steps.to(torch.uint8), minima.to(torch.uint8), scale, minimum_scale


def _best_ranges(groups: Tensor) -> tuple[Tensor, Tensor]:
    """Step and minimum (what is taken away, at least 0) of each group: of several candidates the one of least error.

    A group whose values lie on a grid of fewer than 16 steps, as those of a model that was published in 4 bits, keeps
    that grid.
    """
    low, high = groups.amin(dim=-1).clamp_(max=0), groups.amax(dim=-1).clamp_(min=0)
    best_error = torch.full_like(low, torch.inf)
    best_step, best_minimum = torch.zeros_like(low), torch.zeros_like(low)
    for num_steps in (15, 14, 13, 12, 11, 10, 9, 8, 16, 17, 18):  # what is beyond 15 is cut off at both ends
        step = (high - low) / num_steps
        minimum = (min(_MAX_Q4 - num_steps, 0) * step / 2 - low).clamp_(min=0)
        error = (_nearest(groups, step, minimum) * step.unsqueeze(-1) - minimum.unsqueeze(-1) - groups).square_()
        total = error.sum(-1)
        is_better = total < best_error
        best_error = torch.where(is_better, total, best_error)
        best_step = torch.where(is_better, step, best_step)
        best_minimum = torch.where(is_better, minimum, best_minimum)
    return best_step, best_minimum


def _as_bytes(parts: Tensor) -> tuple[Tensor, Tensor]:
    """Whole numbers up to 255, still float, and the channel's scale of them."""
    scale = parts.amax(dim=1) / _MAX_BYTE
    return (parts / torch.where(scale > 0, scale, 1.0).unsqueeze(1)).round_(), scale


def _nearest(groups: Tensor, step: Tensor, minimum: Tensor) -> Tensor:
    divisor = torch.where(step > 0, step, 1.0).unsqueeze(-1)
    return ((groups + minimum.unsqueeze(-1)) / divisor).round_().clamp_(0, _MAX_Q4)
