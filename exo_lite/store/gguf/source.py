"""A .gguf file as a source for the store."""

from __future__ import annotations

import json
from pathlib import Path

from exo_lite.catalog.hf_config import spec_to_config
from exo_lite.store.gguf.kind import refuse_other_kinds
from exo_lite.store.gguf.parts import open_whole_gguf
from exo_lite.store.gguf.spec import spec_of
from exo_lite.store.gguf.tensors import safetensors_file, weight_bytes
from exo_lite.store.gguf.vocabulary import tokenizer_files
from exo_lite.store.source import ModelSource, content_file


def open_gguf(path: Path) -> ModelSource:
    """Check a file, with all parts of its set, and prepare its conversion.

    Raises InvalidModel, UnsupportedModel, OSError.
    """
    file = open_whole_gguf(path)
    refuse_other_kinds(file)
    spec = spec_of(file)
    config = spec_to_config(spec)  # also checks that the numbers fit each other
    weights = safetensors_file(file, spec)
    texts = tokenizer_files(file, spec.context_length)
    texts["config.json"] = (json.dumps(config, indent=2) + "\n").encode()
    small_files = (content_file(name, content) for name, content in sorted(texts.items()))
    return ModelSource(path.name, spec, weight_bytes(spec), (*small_files, weights))
