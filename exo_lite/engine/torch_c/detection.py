"""Looking for what this machine has for the engine: a device, and kernels that really build."""

from __future__ import annotations

from exo_lite.domain.engine import Detected
from exo_lite.engine.torch_c.native.build import load_library
from exo_lite.engine.torch_c.numerics import C_KERNELS, torch_numerics


def detect(wanted: str) -> Detected:
    """Look for `auto`, `cpu`, `cuda:N` or `mps`. Raises LookupError where the machine does not have what is wanted.

    torch, which takes seconds to import, is imported only where the processor and our C kernels won't do.
    """
    if wanted == "cpu" and load_library() is not None:
        return Detected("cpu", "", "cpu", C_KERNELS)
    kind, name, device = _find(wanted)
    if kind == "cpu" and load_library() is not None:
        return Detected(kind, name, device, C_KERNELS)
    return Detected(kind, name, device, torch_numerics(kind))


def _find(wanted: str) -> tuple[str, str, str]:
    """Kind and name, and how torch calls the device."""
    import torch

    if wanted == "mps" or (wanted == "auto" and torch.backends.mps.is_available()):
        if not torch.backends.mps.is_available():
            raise LookupError("this machine, or this build of torch, has no Metal device")
        return "mps", "Apple", "mps"
    if wanted.startswith("cuda") or (wanted == "auto" and torch.cuda.is_available()):
        index = int(wanted.partition(":")[2] or 0)
        if index >= torch.cuda.device_count():
            raise LookupError(f"torch sees {torch.cuda.device_count()} CUDA devices; is it a CUDA build?")
        return "cuda", torch.cuda.get_device_name(index), f"cuda:{index}"
    return "cpu", "", "cpu"
