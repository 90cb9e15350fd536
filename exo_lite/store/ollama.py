"""Ollama's models: a manifest names blobs by their SHA-256, one of which is a GGUF file.

Layout: MODELS/manifests/REGISTRY/NAMESPACE/NAME/TAG and MODELS/blobs/sha256-HEX.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from exo_lite.checkpoint.json_files import read_json_object
from exo_lite.domain.errors import InvalidModel, UnsupportedModel

_MODEL = "application/vnd.ollama.image.model"
_ADAPTER = "application/vnd.ollama.image.adapter"
_DIGEST = re.compile(r"sha256:([0-9a-f]{64})")
_MAX_MANIFEST_BYTES = 1 << 20


def ollama_blob(path: Path) -> Path | None:
    """The GGUF file of a manifest; None where the path is none. Raises InvalidModel, UnsupportedModel."""
    root = next((parent.parent for parent in path.resolve().parents if parent.name == "manifests"), None)
    if root is None or not (root / "blobs").is_dir():
        return None
    layers = read_json_object(path, max_bytes=_MAX_MANIFEST_BYTES).get("layers")
    if not isinstance(layers, list):
        raise InvalidModel(f"{path.name} lies among Ollama's manifests and lists no layers: pull the model again")
    digests = {kind: _digests(layers, kind) for kind in (_MODEL, _ADAPTER)}
    if digests[_ADAPTER]:
        raise UnsupportedModel(f"{path.name} is a model of Ollama's with an adapter (LoRA) on it: merge the two first")
    if len(digests[_MODEL]) != 1:
        raise UnsupportedModel(f"{path.name} has {len(digests[_MODEL])} files of weights: only one can be taken in")
    blob = root / "blobs" / f"sha256-{digests[_MODEL][0]}"
    if not blob.is_file():
        raise InvalidModel(f"{path.name} names the blob {blob.name}, which is not there: pull the model again")
    return blob


def _digests(layers: list[object], kind: str) -> list[str]:
    found = [layer.get("digest") for layer in layers if isinstance(layer, Mapping) and layer.get("mediaType") == kind]
    matches = [_DIGEST.fullmatch(one) for one in found if isinstance(one, str)]
    return [match[1] for match in matches if match is not None]
