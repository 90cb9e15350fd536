"""A Hugging Face model folder as a source: which of its files are taken, and whether they are sound."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from exo_lite.catalog.hf_config import spec_from_config
from exo_lite.checkpoint.json_files import read_json_object
from exo_lite.checkpoint.tensor_checks import check_tensors
from exo_lite.checkpoint.tensor_names import EMBEDDING_TENSOR, LM_HEAD_TENSOR, all_tensors
from exo_lite.checkpoint.tied_head import is_same_matrix
from exo_lite.checkpoint.weight_index import INDEX_FILE
from exo_lite.domain.errors import InvalidModel, UnsupportedModel
from exo_lite.domain.model_spec import ModelSpec
from exo_lite.store.file_kinds import refuse_pointer
from exo_lite.store.hf_weights import Weights, has_weights, read_weights
from exo_lite.store.hub_cache import check_stays_within
from exo_lite.store.source import ModelSource, SourceFile, content_file, copied_file

CONFIG_FILE = "config.json"
ADAPTER_CONFIG = "adapter_config.json"
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "generation_config.json",
    "chat_template.jinja",
)

_QUANTIZER_FILES = {
    "quantize_config.json": "GPTQ",
    "quant_config.json": "AWQ",
    "hf_quant_config.json": "ModelOpt",
}
"""Tensors that quantizers leave beside weights, some of them not declared in config.json."""


@dataclass(frozen=True, slots=True)
class _Config:
    """config.json, or what is to stand there in its place."""

    file: SourceFile
    spec: ModelSpec
    notes: tuple[str, ...] = ()


def open_hf_folder(folder: Path, *, name: str) -> ModelSource:
    """Check a folder that has a config.json; of its weights only those that decide are read.

    Raises InvalidModel or UnsupportedModel, OSError.
    """
    _refuse_adapter_alone(folder)
    _refuse_quantized(folder)
    config_file = _small_file(folder, CONFIG_FILE)
    values = read_json_object(folder / CONFIG_FILE)
    spec = spec_from_config(values)
    weights = read_weights(folder)
    config = _untied(values, spec) if spec.tie_word_embeddings and not _is_tied(weights) else _Config(config_file, spec)
    shapes = {name: tensor.shape for name, tensor in weights.tensors.items()}
    check_tensors(shapes, config.spec, where=folder.name, missing_files=weights.missing_files)
    return ModelSource(
        name=name,
        spec=config.spec,
        weight_bytes=sum(weights.tensors[name].size_bytes for name in all_tensors(config.spec)),
        files=(
            config.file,
            *([content_file(INDEX_FILE, weights.index)] if weights.index is not None else []),
            *(_small_file(folder, name) for name in _tokenizer_files(folder)),
            *(copied_file(path, name=stored_name) for stored_name, path in weights.files.items()),
        ),
        notes=(*config.notes, *_adapter_note(folder)),
    )


def adapter_text(name: str) -> str:
    return (
        f"{name} is an adapter (LoRA), which changes another model and is none itself: merge it into its base model "
        "(peft's merge_and_unload, then save_pretrained), and import the result"
    )


def _refuse_adapter_alone(folder: Path) -> None:
    if (folder / ADAPTER_CONFIG).is_file() and not has_weights(folder):
        raise UnsupportedModel(adapter_text(folder.name))


def _adapter_note(folder: Path) -> list[str]:
    if not (folder / ADAPTER_CONFIG).is_file():
        return []
    return [
        f"{folder.name} has an adapter (LoRA) beside its weights: the model is taken in without it; merge the two "
        "first if the adapted one is meant"
    ]


def _refuse_quantized(folder: Path) -> None:
    for file_name, method in _QUANTIZER_FILES.items():
        if (folder / file_name).is_file():
            raise UnsupportedModel(
                f"{folder.name} has weights quantized with {method} ({file_name}), which are not read: "
                "fetch the original ones and load them with --quant int8 or int4"
            )


def _untied(values: Mapping[str, object], spec: ModelSpec) -> _Config:
    """An lm_head that differs from the embedding is used, whatever config.json says of tying, as transformers does."""
    note = (
        f"{CONFIG_FILE} says that the output head is the embedding (tie_word_embeddings), but the weights "
        "hold another one: that one is used"
    )
    content = (json.dumps({**values, "tie_word_embeddings": False}, indent=2) + "\n").encode()
    return _Config(content_file(CONFIG_FILE, content), replace(spec, tie_word_embeddings=False), (note,))


def _is_tied(weights: Weights) -> bool:
    embedding, lm_head = weights.tensors.get(EMBEDDING_TENSOR), weights.tensors.get(LM_HEAD_TENSOR)
    return embedding is None or lm_head is None or is_same_matrix(embedding, lm_head)


def _tokenizer_files(folder: Path) -> list[str]:
    present = [name for name in TOKENIZER_FILES if (folder / name).is_file()]
    if not {"tokenizer.json", "tokenizer.model"} & {*present}:
        raise InvalidModel(f"{folder.name} has neither tokenizer.json nor tokenizer.model: fetch them from its model")
    return present


def _small_file(folder: Path, name: str) -> SourceFile:
    path = folder / name
    check_stays_within(path, folder)
    refuse_pointer(path)
    return copied_file(path, name=name)
