"""The kernels as a shared library: compiled once for a processor and a compiler, then kept in the user's cache."""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import tempfile
from importlib import resources
from pathlib import Path

import platformdirs
import torch

log = logging.getLogger(__name__)

SOURCES = ("kernels.h", "common.h", "integers.c", "floats.c", "quantize.c", "rows.c")
# no contraction: a fused multiply-add rounds once where the portable path rounds twice
FLAGS = ("-O3", "-march=native", "-ffp-contract=off", "-fno-math-errno", "-fPIC", "-shared", "-fvisibility=hidden")
BUILD_TIMEOUT_S = 120
CACHE_VARIABLE = "EXO_LITE_KERNEL_CACHE"


def load_library() -> ctypes.CDLL | None:
    """The compiled kernels; None where there is no C compiler or it cannot build them: then torch's kernels serve."""
    compiler = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        log.info("no C compiler: the integer engine runs on torch's kernels, slower", extra={"fix": "install gcc"})
        return None
    source = {name: resources.files(__package__).joinpath(name).read_bytes() for name in SOURCES}
    target = _cache_folder() / f"kernels-{_fingerprint(compiler, source)}.so"
    try:
        if not target.exists():
            _build(compiler, source, target)
        return ctypes.CDLL(str(target))
    except (OSError, subprocess.SubprocessError) as error:
        cause = getattr(error, "stderr", None) or error
        log.warning("the C kernels cannot be built: torch's serve, slower", extra={"cause": str(cause)[-500:]})
        return None


def _cache_folder() -> Path:
    return Path(os.environ.get(CACHE_VARIABLE) or platformdirs.user_cache_dir("exo-lite"))


def _fingerprint(compiler: str, source: dict[str, bytes]) -> str:
    """Of everything that the library depends on: source, flags, compiler, processor, torch's OpenMP."""
    version = subprocess.run([compiler, "--version"], capture_output=True, timeout=10, check=False).stdout
    parts = [*source.values(), repr(FLAGS).encode(), version, _processor().encode(), torch.__version__.encode()]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:24]


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() + platform.machine()
    return "".join(line for line in lines[:40] if line.startswith(("model name", "flags", "Features")))


def _build(compiler: str, source: dict[str, bytes], target: Path) -> None:
    """Complete or not there, also with several workers building at once."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        for name, content in source.items():
            (Path(folder) / name).write_bytes(content)
        built = Path(folder) / "kernels.so"
        c_files = [str(Path(folder) / name) for name in source if name.endswith(".c")]
        command = [compiler, *FLAGS, "-std=gnu11", "-o", str(built), *c_files, "-lm"]
        for openmp in (_openmp_flags(), []):
            try:
                subprocess.run([*command, *openmp], capture_output=True, text=True, timeout=BUILD_TIMEOUT_S, check=True)
                break
            except subprocess.CalledProcessError:
                if not openmp:
                    raise
        built.rename(target)


def _openmp_flags() -> list[str]:
    """Against torch's own OpenMP, so that both share one team of threads: two would fight for the cores."""
    bundled = sorted((Path(torch.__file__).parent / "lib").glob("libgomp*.so*"))
    return ["-fopenmp", *map(str, bundled[:1])]
