"""Quantized tensors on disk, a file per layer and per end of the model, so that any later split reads what it needs."""

from __future__ import annotations

import json
import logging
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from exo_lite.checkpoint.safetensors_file import TensorEntry, read_header
from exo_lite.domain.errors import InvalidModel
from exo_lite.engine.torch_c.huge_pages import advise_huge_pages
from exo_lite.engine.torch_c.quantized import QuantizedLinear
from exo_lite.engine.torch_c.stored_tensors import read_whole
from exo_lite.engine.torch_c.weight_format import Kind

log = logging.getLogger(__name__)

FORMAT = 3
FOLDER = "quantized"

_SIZES = "sizes"
"""Outputs and inputs of each linear, in the file's metadata: what is stored is padded."""
_PARTS = ("weight", "scale", "steps", "minima", "bias")
_DTYPES = {"U8": torch.uint8, "F32": torch.float32}


class QuantizedCache:
    """Beside a model's own files, which never change; it leaves with them. What cannot be read is made anew."""

    def __init__(self, model_dir: Path, kind: Kind) -> None:
        self._folder = model_dir / FOLDER / f"{kind}-{FORMAT}"
        self._kind = kind

    def load(self, name: str) -> dict[str, QuantizedLinear] | None:
        """The linears saved under a name; None where there are none.

        In memory of their own: a mapped file has small pages, from which one thread reads 3 to 5 % slower.
        """
        path = self._folder / f"{name}.safetensors"
        if not path.exists():
            return None
        try:
            with safe_open(path, framework="pt") as file:
                sizes = json.loads(file.metadata()[_SIZES])
            tensors = {part: _read(entry) for part, entry in read_header(path, where=path.name).items()}
            return _unflatten(self._kind, tensors, sizes)
        except (InvalidModel, SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
            log.warning("a quantized file is damaged and made anew", extra={"file": path.name, "cause": str(error)})
            return None

    def save(self, name: str, linears: Mapping[str, QuantizedLinear]) -> None:
        """Complete or not at all; a disk without room only costs the next load its time."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=self._folder) as folder:
                fresh = Path(folder) / "fresh.safetensors"
                sizes = {name: (linear.num_outputs, linear.num_inputs) for name, linear in linears.items()}
                save_file(_flatten(linears), fresh, metadata={_SIZES: json.dumps(sizes)})
                os.replace(fresh, self._folder / f"{name}.safetensors")  # noqa: PTH105 - the same as Path.replace
        except (OSError, SafetensorError) as error:
            log.warning("quantized weights are not kept for the next load", extra={"cause": str(error)})


def _read(entry: TensorEntry) -> Tensor:
    tensor = advise_huge_pages(torch.empty(entry.shape, dtype=_DTYPES[entry.dtype]))
    read_whole(entry, tensor)
    return tensor


def _flatten(linears: Mapping[str, QuantizedLinear]) -> dict[str, Tensor]:
    parts = {f"{name}.{part}": getattr(linear, part) for name, linear in linears.items() for part in _PARTS}
    return {name: tensor for name, tensor in parts.items() if tensor is not None}


def _unflatten(
    kind: Kind, tensors: Mapping[str, Tensor], sizes: dict[str, tuple[int, int]]
) -> dict[str, QuantizedLinear]:
    return {
        name: QuantizedLinear(
            kind,
            num_outputs,
            num_inputs,
            **{part: tensors[f"{name}.{part}"] for part in _PARTS if f"{name}.{part}" in tensors},
        )
        for name, (num_outputs, num_inputs) in sizes.items()
    }
