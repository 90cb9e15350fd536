"""The kernels as a shared library: compiled once for a processor and a compiler, then kept in a cache folder."""

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
FALLBACK_VARIABLE = "EXO_LITE_KERNEL_CACHE_FALLBACK"
"""Set by the daemon to a folder of its own."""


def load_library() -> ctypes.CDLL | None:
    """The compiled kernels; None where there is no C compiler or it cannot build them: then torch's kernels serve."""
    compiler = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        log.info("no C compiler: the integer engine runs on torch's kernels, slower", extra={"fix": "install gcc"})
        return None
    source = {name: resources.files(__package__).joinpath(name).read_bytes() for name in SOURCES}
    name = f"kernels-{_fingerprint(compiler, source)}.so"
    try:
        return _load_kept(compiler, source, name) or _load_unkept(compiler, source, name)
    except (OSError, subprocess.SubprocessError) as error:
        cause = getattr(error, "stderr", None) or error
        log.warning("the C kernels cannot be built: torch's serve, slower", extra={"cause": str(cause)[-500:]})
        return None


def _load_kept(compiler: str, source: dict[str, bytes], name: str) -> ctypes.CDLL | None:
    """From the first folder that can be written and run from; None where there is none."""
    causes: dict[str, str] = {}
    for folder in cache_folders():
        try:
            if not (folder / name).exists():
                _build(compiler, source, folder / name)
            library = ctypes.CDLL(str(folder / name))
        except OSError as error:  # read-only, full, no right to write, mounted without the right to run
            causes[str(folder)] = str(error)
            continue
        if causes:
            log.info("the C kernels are kept in %s", folder, extra={"not_in": causes})
        return library
    log.warning(
        "the C kernels can be kept nowhere and are built at each load",
        extra={"causes": causes, "fix": f"set {CACHE_VARIABLE} to a folder that can be written"},
    )
    return None


def _load_unkept(compiler: str, source: dict[str, bytes], name: str) -> ctypes.CDLL:
    """From a private folder that is gone once the library is loaded."""
    with tempfile.TemporaryDirectory(prefix="exo-lite-") as folder:
        _build(compiler, source, Path(folder) / name)
        return ctypes.CDLL(str(Path(folder) / name))


def cache_folders() -> list[Path]:
    """Where compiled kernels may be kept, the best place first; a service or a container often has no home folder."""
    candidates = [
        os.environ.get(CACHE_VARIABLE, ""),
        os.environ.get("CACHE_DIRECTORY", "").split(":")[0],  # systemd's CacheDirectory=
        platformdirs.user_cache_dir("exo-lite"),
        os.environ.get(FALLBACK_VARIABLE, ""),
    ]
    return list(dict.fromkeys(Path(one) for one in candidates if Path(one).is_absolute()))


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
                subprocess.run(
                    [*command, *openmp],
                    env={**os.environ, "TMPDIR": folder},  # /tmp may be read-only too
                    capture_output=True,
                    text=True,
                    timeout=BUILD_TIMEOUT_S,
                    check=True,
                )
                break
            except subprocess.CalledProcessError:
                if not openmp:
                    raise
        built.rename(target)


def _openmp_flags() -> list[str]:
    """Against torch's own OpenMP, so that both share one team of threads: two would fight for the cores."""
    bundled = sorted((Path(torch.__file__).parent / "lib").glob("libgomp*.so*"))
    return ["-fopenmp", *map(str, bundled[:1])]
