"""The weight files of a Hugging Face folder, read by their own headers: an index may be wrong, these are loaded."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from exo_lite.checkpoint.safetensors_file import STORED_DTYPES, TensorEntry, read_header
from exo_lite.checkpoint.weight_index import INDEX_FILE, SINGLE_FILE, SUFFIX, read_weight_map
from exo_lite.domain.errors import InvalidModel, UnsupportedModel
from exo_lite.store.file_kinds import PICKLE_SUFFIXES, refuse_pointer
from exo_lite.store.hub_cache import check_stays_within

_OTHERS = ("adapter_model.safetensors", "consolidated.safetensors")
"""Beside a model's own weights: an adapter, and Mistral's form of the same."""
_PART = re.compile(r"(.+)-[0-9]{5}-of-([0-9]{5})\.safetensors")
_QUANTIZED_NAMES = {
    "qweight": "GPTQ or AWQ",
    "qzeros": "GPTQ or AWQ",
    "absmax": "bitsandbytes",
    "SCB": "bitsandbytes",
    "weight_scale": "fp8 or compressed-tensors",
    "weight_scale_inv": "fp8",
    "weight_packed": "compressed-tensors",
    "biases": "mlx",
}
"""Last parts of tensor names that only quantized checkpoints have."""


@dataclass(frozen=True, slots=True)
class Weights:
    """`files` with the names that they get in the store; `index` is what stands in its index there, if it needs one."""

    files: Mapping[str, Path]
    tensors: Mapping[str, TensorEntry]
    missing_files: tuple[str, ...] = ()
    """Files that the index names and the folder lacks."""

    @property
    def index(self) -> bytes | None:
        if [*self.files] == [SINGLE_FILE]:
            return None
        names = {path: name for name, path in self.files.items()}
        weight_map = {name: names[tensor.path] for name, tensor in sorted(self.tensors.items())}
        return (json.dumps({"weight_map": weight_map}, indent=2) + "\n").encode()


def has_weights(folder: Path) -> bool:
    """Say whether a folder has a whole model's safetensors files, or an index that names them."""
    return bool(_candidates(folder)) or (folder / INDEX_FILE).is_file()


def read_weights(folder: Path) -> Weights:
    """Raises InvalidModel, UnsupportedModel, OSError."""
    if (folder / SINGLE_FILE).is_file():
        return _one_file(folder, folder / SINGLE_FILE)
    if (folder / INDEX_FILE).is_file():
        return _indexed_files(folder)
    found = _candidates(folder)
    if len(found) == 1:
        return _one_file(folder, folder / found[0])
    if found:
        raise InvalidModel(f"{folder.name} has {len(found)} safetensors files, but no {INDEX_FILE}: fetch it as well")
    _refuse_others(folder)
    raise InvalidModel(f"{folder.name} has no *{SUFFIX} file: fetch the model's weights in this format")


def _candidates(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob(f"*{SUFFIX}") if path.name not in _OTHERS)


def _refuse_others(folder: Path) -> None:
    """Weights in forms that are not read."""
    if (folder / "consolidated.safetensors").is_file():
        raise UnsupportedModel(
            f"{folder.name} has its weights in Mistral's own form (consolidated.safetensors): fetch the files of the "
            f"Hugging Face form as well ({SINGLE_FILE} or model-00001-of-...)"
        )
    pickles = sorted(path.name for path in folder.iterdir() if path.suffix in PICKLE_SUFFIXES)
    if pickles:
        raise UnsupportedModel(
            f"{folder.name} has its weights in {pickles[0]}, a pickle, which can run code when it is read: "
            "fetch the safetensors files, or convert it where you trust it (transformers' save_pretrained)"
        )


def _one_file(folder: Path, path: Path) -> Weights:
    return Weights({SINGLE_FILE: path}, _read_header(folder, path))


def _indexed_files(folder: Path) -> Weights:
    weight_map = _weight_map(folder)
    named = sorted(set(weight_map.values()))
    present = [name for name in sorted({*named, *_siblings(folder, named)}) if (folder / name).is_file()]
    missing = tuple(name for name in named if name not in present)
    if not present:
        raise InvalidModel(f"{missing[0]} is missing: fetch it as well")
    tensors: dict[str, TensorEntry] = {}
    for name in present:
        for tensor_name, tensor in _read_header(folder, folder / name).items():
            if tensor_name not in tensors or weight_map.get(tensor_name) == name:
                tensors[tensor_name] = tensor
            elif weight_map.get(tensor_name) != tensors[tensor_name].path.name:
                raise InvalidModel(
                    f"tensor {tensor_name} stands in {tensors[tensor_name].path.name} and in {name}, and {INDEX_FILE} "
                    "does not say which counts"
                )
    return Weights({name: folder / name for name in present}, tensors, missing)


def _siblings(folder: Path, named: Iterable[str]) -> list[str]:
    """Parts of the same set that the index leaves out."""
    sets = {match.groups() for name in named if (match := _PART.fullmatch(name))}
    return [name for name in _candidates(folder) if (match := _PART.fullmatch(name)) and match.groups() in sets]


def _weight_map(folder: Path) -> dict[str, str]:
    check_stays_within(folder / INDEX_FILE, folder)
    refuse_pointer(folder / INDEX_FILE)
    return read_weight_map(folder)


def _read_header(folder: Path, path: Path) -> dict[str, TensorEntry]:
    check_stays_within(path, folder)
    refuse_pointer(path)
    tensors = read_header(path, where=path.name)
    for tensor in tensors.values():
        _check_type(tensor)
    return tensors


def _check_type(tensor: TensorEntry) -> None:
    method = _QUANTIZED_NAMES.get(tensor.name.rpartition(".")[2])
    if method is not None or tensor.dtype not in STORED_DTYPES:
        found = f"which quantizing with {method} leaves" if method else f"of type {tensor.dtype}"
        raise UnsupportedModel(
            f"{tensor.path.name}: tensor {tensor.name} is one {found}; only {', '.join(STORED_DTYPES)} can be read: "
            "fetch the model's unquantized weights, and load them with --quant int8 or int4"
        )
