"""Rotary position embedding: frequencies of every scaling, tables over positions, the rotation itself."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import assert_never

import torch
from torch import Tensor

from exo_lite.domain.errors import UnsupportedModel
from exo_lite.domain.llama3_rope import llama3_stretch
from exo_lite.domain.model_spec import ModelSpec, RopeScaling


@dataclass(frozen=True, slots=True, eq=False)
class RopeTables:
    """cos, sin: [context_length, head_dim / 2], computed in float32, kept in the type that rotates with them."""

    cos: Tensor
    sin: Tensor

    def at(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """cos and sin as `apply_rope` takes them: [tokens, 1, head_dim], the first half of sin negated."""
        cos = self.cos.index_select(0, positions)
        sin = self.sin.index_select(0, positions)
        return torch.cat((cos, cos), dim=-1).unsqueeze(1), torch.cat((-sin, sin), dim=-1).unsqueeze(1)


def apply_rope(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate each head by its position (Su et al. 2021, arXiv:2104.09864), half-split layout.

    x: [tokens, heads, head_dim]; cos, sin: [tokens, 1, head_dim], as `RopeTables.at` gives them. Keeps shape and dtype.
    """
    return x * cos + x.roll(x.shape[-1] // 2, dims=-1) * sin


def rope_tables(
    spec: ModelSpec,
    context_length: int,
    dtype: torch.dtype,
    device: torch.device,
    *,
    working_dtype: torch.dtype = torch.float32,
) -> RopeTables:
    """Tables for positions 0 to context_length - 1. Raises UnsupportedModel for a head that has no two halves.

    Powers, cosines and sines are computed in `working_dtype`: processors disagree about their last bit, which float64
    leaves behind when it is rounded to float32.
    """
    if spec.head_dim % 2:
        raise UnsupportedModel(f"head_dim is {spec.head_dim}; rotary embedding needs an even number")
    positions = torch.arange(context_length, dtype=torch.float32)
    angles = torch.outer(positions, inverse_frequencies(spec, context_length, working_dtype).float()).to(working_dtype)
    return RopeTables(angles.cos().to(device, dtype), angles.sin().to(device, dtype))


def inverse_frequencies(spec: ModelSpec, context_length: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Radians per position of each pair: [head_dim / 2]."""
    scaling = spec.rope_scaling
    match scaling.rope_type:
        case "default":
            return _unscaled(spec.rope_theta, spec.head_dim, dtype)
        case "linear":
            return _unscaled(spec.rope_theta, spec.head_dim, dtype) / scaling.factor
        case "dynamic":
            return _unscaled(_dynamic_theta(spec, context_length), spec.head_dim, dtype)
        case "llama3":
            return _llama3(_unscaled(spec.rope_theta, spec.head_dim, dtype), scaling)
        case _:
            assert_never(scaling.rope_type)


def _unscaled(theta: float, head_dim: int, dtype: torch.dtype) -> Tensor:
    exponents = torch.arange(0, head_dim, 2, dtype=dtype) / head_dim
    return torch.reciprocal(torch.pow(theta, exponents))


def _dynamic_theta(spec: ModelSpec, context_length: int) -> float:
    """The base of dynamic NTK scaling, for the context that a cache is made for.

    The usual rule grows the base with each sequence beyond the trained length, so that keys already cached were rotated
    by another one: what a token sees then depends on how it was computed. Here the context decides, once: up to the
    trained length nothing is scaled, as everywhere; a longer context uses its own length's base from the first token.
    """
    trained_length = spec.max_position_embeddings
    if context_length <= trained_length or spec.head_dim == 2:
        return spec.rope_theta
    factor = spec.rope_scaling.factor
    stretch = factor * context_length / trained_length - (factor - 1)
    return float(spec.rope_theta * stretch ** (spec.head_dim / (spec.head_dim - 2)))


def _llama3(frequencies: Tensor, scaling: RopeScaling) -> Tensor:
    turns = scaling.original_max_position_embeddings * frequencies / (2 * math.pi)
    return frequencies * llama3_stretch(turns, scaling)
