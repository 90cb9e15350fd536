"""Float weights to integers, some output channels at a time."""

from __future__ import annotations

import torch
from torch import Tensor

from exo_lite.engine.torch_c.native.kernels import native_library, to_int4
from exo_lite.engine.torch_c.quantized import SWAPPED, QuantizedLinear
from exo_lite.engine.torch_c.weight_format import GROUP_SIZE, STEP_PARTS, TILE, WEIGHT_OFFSET

_BLOCK_ROWS = 128
"""Output channels quantized at once: what is float at one time stays small."""
_MAX_Q4 = 15
_MAX_STEP = 255
_ROUNDED_DOWN = (torch.arange(_MAX_STEP + 1).outer(torch.arange(16)) % STEP_PARTS / STEP_PARTS).mean(1)
"""The mean loss of a byte by rounding down, by step."""
_MAX_INT8 = 127
_MAX_INT4 = 119
"""The greatest step reaches over a channel's whole range: 15 · 255 / 16 = 2 · 119 + 1."""


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
        q, target.steps[tiles, :, lanes], target.minima[tiles, :, lanes] = _int4_of(units)
        eights = q.view(q.shape[0], -1, 2, 4)[..., SWAPPED]
        bytes_ = (eights[:, :, 0] | (eights[:, :, 1] << 4)).flatten(1)
    _fours(target.weight)[tiles, :, lanes] = _fours(bytes_)


def _with_padding(block: Tensor) -> Tensor:
    """[rows, num_inputs] with the last input repeated up to whole groups, which changes no group's range."""
    missing = -block.shape[1] % GROUP_SIZE
    return torch.cat((block, block[:, -1:].expand(-1, missing)), dim=1) if missing else block.contiguous()


def _fours(weight: Tensor) -> Tensor:
    """Four bytes as one number, so that they move together."""
    return weight.view(torch.int32).squeeze(-1)


def _int4_of(units: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    library = native_library() if units.device.type == "cpu" else None
    return portable_int4(units) if library is None else to_int4(library, units)


def portable_int4(units: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Quantize as the kernels' to_int4 does; errors are added in another order, so equal steps may be chosen otherwise.

    Of several steps of a group the one of least error is taken. A group whose values lie on a grid of fewer than 16
    steps, as those of a model that was published in 4 bits, keeps that grid.
    """
    groups = units.view(units.shape[0], -1, GROUP_SIZE)
    low, high = groups.amin(dim=-1), groups.amax(dim=-1)
    best = torch.full_like(low, torch.inf)
    best_q, best_step, best_minimum = torch.zeros_like(groups), torch.zeros_like(low), torch.zeros_like(low)
    for num_steps in (15, 14, 13, 12, 11, 10, 9, 8, 16, 17, 18):  # what is beyond 15 is cut off at both ends
        step = ((high - low) / num_steps * STEP_PARTS).round_().clamp_(max=_MAX_STEP)
        cut = max(num_steps - _MAX_Q4, 0) / 2 * step / STEP_PARTS
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
    return ((groups - minimum.unsqueeze(-1)) * STEP_PARTS / divisor).round_().clamp_(0, _MAX_Q4)


def _bytes_of(q: Tensor, step: Tensor, minimum: Tensor) -> Tensor:
    return (q * step.unsqueeze(-1) / STEP_PARTS).floor_() + minimum.unsqueeze(-1)
