"""Weights as integers, in the tiles that the C kernels read one behind the other.

int8: a byte per weight and a scale per output channel. int4: half a byte, from which the byte comes back: groups of
inputs have a step and a minimum each, on the channel's own grid of bytes. Products and sums of integers are exact in
every order, so that a row's result never depends on what is multiplied beside it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from exo_lite.engine.torch_c.huge_pages import advise_huge_pages
from exo_lite.engine.torch_c.weight_format import GROUP_SIZE, STEP_PARTS, TILE, WEIGHT_OFFSET, Kind, padded

SWAPPED = [1, 0, 3, 2]
"""Four inputs of int4, as the kernels unpack them with the fewest instructions."""


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
            q = torch.stack((tiles & 15, tiles >> 4), dim=2).flatten(1, 2)[..., SWAPPED]
            steps, minima = (x.repeat_interleave(GROUP_SIZE // 4, 1).unsqueeze(3) for x in (self.steps, self.minima))
            tiles = (q * steps // STEP_PARTS + minima).short()
        return (tiles - WEIGHT_OFFSET).transpose(1, 2).flatten(2).flatten(0, 1)[: self.num_outputs]

    def dequantized(self) -> Tensor:
        """The weights that it stands for: float32 [num_outputs, num_inputs]."""
        return (self.integers() * self.scale[: self.num_outputs, None])[:, : self.num_inputs]


def empty_linear(kind: Kind, num_outputs: int, num_inputs: int, *, has_bias: bool = False) -> QuantizedLinear:
    """Zeros, to be filled by quantize_rows."""
    n, k = padded(num_outputs, TILE), padded(num_inputs, GROUP_SIZE)
    scale, bias = torch.zeros(n), torch.zeros(n) if has_bias else None
    if kind == "int8":
        weight = advise_huge_pages(torch.zeros((n // TILE, k // 4, TILE, 4), dtype=torch.uint8))
        return QuantizedLinear(kind, num_outputs, num_inputs, weight, scale, bias=bias)
    weight = advise_huge_pages(torch.zeros((n // TILE, k // 8, TILE, 4), dtype=torch.uint8))
    steps, minima = (torch.zeros((n // TILE, k // GROUP_SIZE, TILE), dtype=torch.uint8) for _ in range(2))
    return QuantizedLinear(kind, num_outputs, num_inputs, weight, scale, steps, minima, bias)
