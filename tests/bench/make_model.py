"""Write a model of a real shape with random weights into a folder of models, ready to be loaded.

    python -m tests.bench.make_model 1b [--models-dir DIR] [--gguf q8_0 q4_0 bf16]

Shapes: `1b` is Llama-3.2-1B's (2.5 GB), `8b` Llama-3-8B's (16 GB), `tiny` for trying things out. The model is stored
as `bench-SHAPE`; --gguf also writes the very same weights as `bench-SHAPE.TYPE.gguf` beside it, for llama.cpp. What is
there already stays. Takes as long as the disk needs; never more than one tensor is in memory.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from itertools import pairwise
from pathlib import Path

from exo_lite.catalog.hf_config import spec_to_config
from exo_lite.checkpoint.safetensors_file import TensorForm, header_bytes
from exo_lite.checkpoint.tensor_names import Shape, all_tensors
from exo_lite.checkpoint.weight_index import INDEX_FILE, SINGLE_FILE
from exo_lite.domain.model_spec import DTYPE_BYTES, ModelSpec
from exo_lite.store.hf_folder import CONFIG_FILE
from exo_lite.store.manifest import MANIFEST_FILE, FileEntry, Manifest
from exo_lite.store.staging import publish, staging_folder, sweep
from tests.bench.make_gguf import GGUF_TYPES, write_gguf
from tests.bench.shapes import RandomWeights, shape_names, spec_of, tokenizer_files

MODELS_DIR = Path(__file__).parents[2] / ".cache/bench-models"
Chunk = bytes | memoryview

FILE_BYTES = 4 << 30
"""A weight file ends with the tensor that makes it longer than this."""


def model_id(shape: str) -> str:
    return f"bench-{shape}"


def make_checkpoint(shape: str, models_dir: Path, *, file_bytes: int = FILE_BYTES) -> Path:
    """The model's folder in the store, made if it is not there, with weight files of about `file_bytes`."""
    folder = models_dir / model_id(shape)
    if not folder.exists():
        models_dir.mkdir(parents=True, exist_ok=True)
        sweep(models_dir)
        with staging_folder(models_dir, model_id(shape)) as staged:
            write_checkpoint(staged, model_id(shape), spec_of(shape), file_bytes)
            publish(staged, folder)
    return folder


def make_gguf(shape: str, kind: str, models_dir: Path) -> Path:
    """The model as a .gguf file with matrices of this type, made if it is not there."""
    path = models_dir / f"{model_id(shape)}.{kind}.gguf"
    if not path.exists():
        models_dir.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(".partial")
        write_gguf(unfinished, spec_of(shape), kind)
        unfinished.rename(path)
    return path


def write_checkpoint(folder: Path, name: str, spec: ModelSpec, file_bytes: int) -> None:
    """Weights, config and tokenizer, and last the manifest that makes a stored model of the folder."""
    parts = split(all_tensors(spec), file_bytes)
    names = [SINGLE_FILE] if len(parts) == 1 else [f"model-{number}.safetensors" for number in range(len(parts))]
    files: dict[str, Iterable[Chunk]] = {
        CONFIG_FILE: [_json(spec_to_config(spec))],
        **{file_name: [content] for file_name, content in tokenizer_files(spec).items()},
        **{file_name: _weight_chunks(part, spec) for file_name, part in zip(names, parts, strict=True)},
    }
    if len(parts) > 1:
        files[INDEX_FILE] = [_json(_index(dict(zip(names, parts, strict=True)), spec))]
    entries = tuple(_write(folder / file_name, chunks) for file_name, chunks in files.items())
    manifest = Manifest(name, "random weights", _weight_bytes(all_tensors(spec), spec), entries)
    (folder / MANIFEST_FILE).write_bytes(manifest.to_json())


def split(tensors: Mapping[str, Shape], max_bytes: int) -> list[dict[str, Shape]]:
    """Runs of tensors, each ending with the bfloat16 tensor that takes it beyond `max_bytes`."""
    items, starts, size_bytes = list(tensors.items()), [0], 0
    for index, (_, shape) in enumerate(items, start=1):
        size_bytes += 2 * math.prod(shape)
        if size_bytes > max_bytes and index < len(items):
            starts.append(index)
            size_bytes = 0
    return [dict(items[start:end]) for start, end in pairwise([*starts, len(items)])]


def _weight_chunks(tensors: Mapping[str, Shape], spec: ModelSpec) -> Iterator[Chunk]:
    weights = RandomWeights()
    yield header_bytes(TensorForm(name, spec.dtype, shape) for name, shape in tensors.items())
    for name, shape in tensors.items():
        yield weights.tensor(name, shape).data.cast("B")


def _weight_bytes(tensors: Mapping[str, Shape], spec: ModelSpec) -> int:
    return sum(math.prod(shape) for shape in tensors.values()) * DTYPE_BYTES[spec.dtype]


def _index(files: Mapping[str, Mapping[str, Shape]], spec: ModelSpec) -> dict[str, object]:
    weight_map = {name: file_name for file_name, tensors in files.items() for name in tensors}
    return {"metadata": {"total_size": _weight_bytes(all_tensors(spec), spec)}, "weight_map": weight_map}


def _json(document: Mapping[str, object]) -> bytes:
    return (json.dumps(document, indent=2) + "\n").encode()


def _write(path: Path, chunks: Iterable[Chunk]) -> FileEntry:
    digest = hashlib.sha256()
    with path.open("xb") as file:
        for chunk in chunks:
            file.write(chunk)
            digest.update(chunk)
    return FileEntry(path.name, path.stat().st_size, digest.hexdigest())


def _told(what: str, make: Callable[[], Path]) -> None:
    print(f"{what} ...", flush=True)
    began_s = time.monotonic()
    path = make()
    print(f"{path}: {time.monotonic() - began_s:.0f} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shape", choices=shape_names())
    parser.add_argument("--models-dir", type=Path, default=MODELS_DIR, help="default: .cache/bench-models")
    parser.add_argument("--gguf", nargs="+", choices=list(GGUF_TYPES), default=[], metavar="TYPE")
    arguments = parser.parse_args()
    shape, models_dir = arguments.shape, arguments.models_dir
    _told(f"{shape} as safetensors", partial(make_checkpoint, shape, models_dir))
    for kind in arguments.gguf:
        _told(f"{shape} as {kind}.gguf", partial(make_gguf, shape, kind, models_dir))


if __name__ == "__main__":
    main()
