"""Names of the numbers that the engine gives: from two shards of one name, a token gets the same bits."""

from __future__ import annotations

C_KERNELS = "torch-c/c"
"""Integers in our C kernels: every sum has its order, on any processor."""


def torch_numerics(device_kind: str) -> str:
    """Return the name of integers in torch's operations, whose norms and attention add in the order of its build."""
    import torch

    where = torch.backends.cpu.get_cpu_capability() if device_kind == "cpu" else device_kind
    return f"torch-c/torch {torch.__version__} {where}"
