"""Paths to import: a model is opened as a source; anything else gets an error that says what it is."""

from __future__ import annotations

from pathlib import Path
from typing import NoReturn

from exo_lite.domain.errors import InvalidModel, InvalidRequest, UnsupportedModel
from exo_lite.store.file_kinds import PICKLE_SUFFIXES, refuse_pointer, starts_like_gguf
from exo_lite.store.hf_folder import ADAPTER_CONFIG, CONFIG_FILE, adapter_text, open_hf_folder
from exo_lite.store.hf_weights import has_weights
from exo_lite.store.hub_cache import check_stays_within, hub_snapshot, hub_source_name, is_hub_root
from exo_lite.store.ollama import ollama_blob
from exo_lite.store.source import ModelSource

_KINDS = "a Hugging Face model folder, a folder of its hub cache, a .gguf file, or a model of Ollama's"


def open_source(path: Path) -> ModelSource:
    """Check a model without reading its weights.

    Takes a Hugging Face folder, the root of a model in its hub cache, a GGUF file with any name, a part of one that is
    split, a folder with one such file, and a manifest of Ollama's. Raises InvalidRequest, InvalidModel,
    UnsupportedModel, OSError.
    """
    if path.is_dir():
        return _open_folder(path)
    if not path.is_file():
        raise InvalidRequest(f"there is no file or folder {path}", param="path")
    return _open_file(path)


def _open_folder(folder: Path) -> ModelSource:
    if is_hub_root(folder):
        return _open_contents(hub_snapshot(folder), name=hub_source_name(folder))
    return _open_contents(folder, name=folder.resolve().name)


def _open_contents(folder: Path, *, name: str) -> ModelSource:
    gguf_files = sorted(path for path in folder.iterdir() if path.suffix.lower() == ".gguf")
    if (folder / CONFIG_FILE).is_file() and (has_weights(folder) or not gguf_files):
        return open_hf_folder(folder, name=name)
    if gguf_files:
        return _open_gguf_of(folder, gguf_files)
    _refuse_folder(folder)


def _open_gguf_of(folder: Path, gguf_files: list[Path]) -> ModelSource:
    from exo_lite.store.gguf.parts import choose_gguf

    chosen = choose_gguf(folder, gguf_files)
    for path in gguf_files:
        check_stays_within(path, folder)
    return _open_gguf(chosen)


def _open_gguf(path: Path) -> ModelSource:
    from exo_lite.store.gguf.source import open_gguf  # takes numpy along, without which daemons start faster

    return open_gguf(path)


def _open_file(path: Path) -> ModelSource:
    refuse_pointer(path)
    if path.suffix.lower() == ".gguf" or starts_like_gguf(path):
        return _open_gguf(path)
    blob = ollama_blob(path)
    if blob is not None:
        return _open_gguf(blob)
    _refuse_file(path)


def _refuse_folder(folder: Path) -> NoReturn:
    """Say what a folder without config.json is, where that can be told."""
    names = {path.name for path in folder.iterdir()}
    if ADAPTER_CONFIG in names:
        raise UnsupportedModel(adapter_text(folder.name))
    if "params.json" in names:
        has_safetensors = any(name.endswith(".safetensors") for name in names)
        whose = "Mistral's own form (params.json, consolidated.safetensors)" if has_safetensors else "Meta's own form"
        raise UnsupportedModel(
            f"{folder.name} is a model in {whose}, without {CONFIG_FILE}: fetch the files of its Hugging Face form, "
            "which hold the same weights, or convert it (transformers has convert_llama_weights_to_hf and "
            "convert_mistral_weights_to_hf)"
        )
    models = sorted(path for path in folder.iterdir() if is_hub_root(path))
    if models:
        raise InvalidRequest(
            f"{folder.name} is a hub's cache with {len(models)} models: give one of its folders, as {models[0].name}",
            param="path",
        )
    raise InvalidModel(f"{folder.name} has no {CONFIG_FILE}: it is not a Hugging Face model folder")


def _refuse_file(path: Path) -> NoReturn:
    if path.suffix == ".safetensors" or path.name.endswith(".safetensors.index.json") or path.name == CONFIG_FILE:
        raise UnsupportedModel(
            f"{path.name} is one file of a model: give the folder that holds it, with {CONFIG_FILE} and tokenizer.json"
        )
    if path.suffix.lower() in PICKLE_SUFFIXES:
        raise UnsupportedModel(
            f"{path.name} is a pickle, which can run code when it is read: fetch the model's safetensors files"
        )
    raise UnsupportedModel(
        f"{path.name} is neither {_KINDS}: "
        "give the folder that holds config.json, *.safetensors and tokenizer.json, or a .gguf file"
    )
