"""The parts of a decoder layer that work row by row."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F  # noqa: N812 - the name that every torch program gives it
from torch import Tensor

from exo_lite.engine.torch_c.native.few_rows import FewRows


@dataclass(frozen=True, slots=True, eq=False)
class Linear:
    """y = x Wᵀ + b. weight: [out_features, in_features]; bias: [out_features]; few_rows: faster for few tokens."""

    weight: Tensor
    bias: Tensor | None = None
    few_rows: FewRows | None = None

    def __call__(self, x: Tensor) -> Tensor:
        """x: [tokens, in_features]. Returns a fresh [tokens, out_features]."""
        if self.few_rows is not None and self.few_rows.is_for(x, self.weight):
            return self.few_rows(x, self.weight, self.bias)
        return F.linear(x, self.weight, self.bias)

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        return (self.weight,) if self.bias is None else (self.weight, self.bias)


@dataclass(frozen=True, slots=True, eq=False)
class SwiGLU:
    """down(silu(gate(x)) · up(x)) (Shazeer 2020, arXiv:2002.05202). The rows of gate stand before those of up."""

    gate_up: Linear
    down: Linear

    def __call__(self, x: Tensor) -> Tensor:
        gate, up = self.gate_up(x).chunk(2, dim=-1)
        return self.down(F.silu(gate).mul_(up))

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        return (*self.gate_up.tensors, *self.down.tensors)


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x / rms(x) · weight over the last dimension (Zhang, Sennrich 2019, arXiv:1910.07467).

    The quotient is computed in float32 and rounded before the product, as models were trained and published with.
    """
    return F.rms_norm(x, weight.shape, eps=eps) * weight
