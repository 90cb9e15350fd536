"""Hidden states as raw bytes, and back."""

from __future__ import annotations

import torch
from torch import Tensor

from exo_lite.domain.errors import MalformedStep
from exo_lite.domain.step import HiddenStates
from exo_lite.engine.torch_c.dtypes import DTYPE_NAMES, TORCH_DTYPES


def to_hidden_states(tensor: Tensor) -> HiddenStates:
    """tensor: [num_tokens, hidden_size] on any device. Raises MalformedStep for another shape or type."""
    if tensor.dim() != 2 or tensor.dtype not in DTYPE_NAMES:
        raise MalformedStep(
            f"hidden states must be [tokens, hidden_size] floats, not {tensor.dtype} {list(tensor.shape)}"
        )
    num_tokens, hidden_size = tensor.shape
    data = tensor.cpu().contiguous().view(torch.uint8).numpy().tobytes()  # numpy has no bfloat16: the raw bytes go out
    return HiddenStates(DTYPE_NAMES[tensor.dtype], num_tokens, hidden_size, data)


def from_hidden_states(hidden_states: HiddenStates, device: torch.device | str) -> Tensor:
    """[num_tokens, hidden_size] in memory of its own: received bytes are read-only. Raises MalformedStep."""
    num_tokens, hidden_size = hidden_states.num_tokens, hidden_states.hidden_size
    if num_tokens < 0 or hidden_size < 1:
        raise MalformedStep(f"hidden states cannot have the shape [{num_tokens}, {hidden_size}]")
    dtype = TORCH_DTYPES[hidden_states.dtype]
    if num_tokens == 0:
        return torch.empty((0, hidden_size), dtype=dtype, device=device)
    tensor = torch.frombuffer(bytearray(hidden_states.data), dtype=dtype).view(num_tokens, hidden_size)
    return tensor.to(device)
