"""GGUF files that hold something else than a model."""

from __future__ import annotations

from exo_lite.domain.errors import UnsupportedModel
from exo_lite.store.gguf.file import GGUFFile

_TYPES = {
    "adapter": "an adapter (LoRA), which changes another model: merge it into its base model first (llama.cpp's "
    "export-lora, or peft's merge_and_unload on the original), then import the result",
    "imatrix": "an importance matrix, which quantizing takes, and no model: give the model's own file",
    "mmproj": "the projector of a model that sees images, which this version does not run: give the text model's file",
}
_ARCHITECTURES = {"clip": _TYPES["mmproj"], "controlvector": "a control vector, and no model: give the model's file"}


def refuse_other_kinds(file: GGUFFile) -> None:
    """Raise UnsupportedModel that says what a file without a model is, and InvalidModel for odd metadata."""
    kind = _TYPES.get(file.text("general.type", "model")) or _ARCHITECTURES.get(file.text("general.architecture", ""))
    if kind is None and file.has("imatrix.datasets"):
        kind = _TYPES["imatrix"]
    if kind is None and not file.tensors:
        kind = "metadata alone, without a tensor: give the file that holds the model's weights"
    if kind is not None:
        raise UnsupportedModel(f"{file.name} holds {kind}")
