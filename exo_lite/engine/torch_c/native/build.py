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
from importlib import metadata, resources
from importlib.util import find_spec
from pathlib import Path

import platformdirs

from exo_lite.engine.torch_c.native.constants import as_flags

log = logging.getLogger(__name__)

HEADERS = (
    *("kernels.h", "simd.h", "threads.h", "float_types.h", "kv_layout.h"),
    *("integer_gemm.h", "integer_attention.h"),
)
C_FILES = ("integers.c", "floats.c", "quantize.c", "rows.c", "about.c")
IS_X86 = platform.machine().lower() in {"x86_64", "amd64"}
FLAGS = (
    "-std=gnu11",
    "-O3",
    "-march=native" if IS_X86 else "-mcpu=native",
    "-ffp-contract=off",  # a fused multiply-add rounds once where the portable path rounds twice
    "-fno-math-errno",
    "-fPIC",
    "-fvisibility=hidden",
    "-Wno-psabi",  # no vector is handed over between files
    *as_flags(),
)
NEEDED = "GCC from 11 on or clang from 15 on"
BUILD_TIMEOUT_S = 120
CACHE_VARIABLE = "EXO_LITE_KERNEL_CACHE"
FALLBACK_VARIABLE = "EXO_LITE_KERNEL_CACHE_FALLBACK"
"""Set by the daemon to a folder of its own."""


def load_library() -> ctypes.CDLL | None:
    """The compiled kernels; None where there is no C compiler or it cannot build them: then torch's kernels serve."""
    compiler = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        log.info(
            "no C compiler: the integer engine runs on torch's kernels, slower", extra={"fix": f"install {NEEDED}"}
        )
        return None
    source = {name: resources.files(__package__).joinpath(name).read_bytes() for name in (*HEADERS, *C_FILES)}
    name = f"kernels-{_fingerprint(compiler, source)}.so"
    try:
        for openmp in _gcc_openmp():
            ctypes.CDLL(str(openmp), mode=ctypes.RTLD_GLOBAL)  # where torch itself is not loaded
        return _load_kept(compiler, source, name) or _load_unkept(compiler, source, name)
    except (OSError, subprocess.SubprocessError) as error:
        cause = _first_error(getattr(error, "stderr", None) or str(error))
        fix = f"install {NEEDED}; the environment variable CC names the compiler"
        log.warning("the C kernels cannot be built: torch's serve, slower", extra={"cause": cause, "fix": fix})
        return None


def _first_error(output: str) -> str:
    """Return a compiler's first error: the rest follows from it."""
    return next((line for line in output.splitlines() if "error:" in line), output[-500:])


def _load_kept(compiler: str, source: dict[str, bytes], name: str) -> ctypes.CDLL | None:
    """Load them from the first folder that can be written and run from; None where there is none."""
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
    """Load them from a private folder that is gone once the library is loaded."""
    with tempfile.TemporaryDirectory(prefix="exo-lite-") as folder:
        _build(compiler, source, Path(folder) / name)
        return ctypes.CDLL(str(Path(folder) / name))


def cache_folders() -> list[Path]:
    """List the folders for compiled kernels, the best one first; a service or a container often has no home folder."""
    candidates = [
        os.environ.get(CACHE_VARIABLE, ""),
        os.environ.get("CACHE_DIRECTORY", "").split(":")[0],  # systemd's CacheDirectory=
        platformdirs.user_cache_dir("exo-lite"),
        os.environ.get(FALLBACK_VARIABLE, ""),
    ]
    return list(dict.fromkeys(Path(one) for one in candidates if Path(one).is_absolute()))


def _fingerprint(compiler: str, source: dict[str, bytes]) -> str:
    """A digest of everything that the library depends on: source, flags, compiler, processor, torch's OpenMP."""
    flags, version, torch_version = repr(FLAGS).encode(), _version(compiler).encode(), metadata.version("torch")
    parts = [*source.values(), flags, version, _processor().encode(), torch_version.encode()]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:24]


def _version(compiler: str) -> str:
    return subprocess.run([compiler, "--version"], capture_output=True, text=True, timeout=10, check=False).stdout


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() + platform.machine()
    return "".join(line for line in lines[:40] if line.startswith(("model name", "flags", "Features")))


def _build(compiler: str, source: dict[str, bytes], target: Path) -> None:
    """Compile to a file that is complete or not there, also with several workers building at once."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        for name, content in source.items():
            (Path(folder) / name).write_bytes(content)
        built = Path(folder) / "kernels.so"
        c_files = [str(Path(folder) / name) for name in C_FILES]
        command = [compiler, *FLAGS, "-shared", "-o", str(built), *c_files, "-lm"]
        openmp = _openmp_flags(is_clang="clang" in _version(compiler))
        try:
            _compile([*command, *openmp], folder)
        except subprocess.CalledProcessError:
            if not openmp:
                raise
            _compile(command, folder)
        built.rename(target)


def _compile(command: list[str], folder: str) -> None:
    subprocess.run(
        command,
        env={**os.environ, "TMPDIR": folder},  # /tmp may be read-only too
        capture_output=True,
        text=True,
        timeout=BUILD_TIMEOUT_S,
        check=True,
    )


def _openmp_flags(*, is_clang: bool) -> list[str]:
    """Flags for torch's own OpenMP, so that both share one team of threads: two would fight for the cores.

    That is GCC's on Linux and clang's on a Mac. Code of clang with GCC's OpenMP in the process gets none: it would
    start its threads by the one and ask the other for their numbers.
    """
    folder = _torch_folder() / "lib"
    if not is_clang:
        return ["-fopenmp", *map(str, _gcc_openmp())]
    of_clang = folder / "libomp.dylib"
    return ["-Xclang", "-fopenmp", str(of_clang), f"-Wl,-rpath,{folder}"] if of_clang.exists() else []


def _gcc_openmp() -> list[Path]:
    return sorted((_torch_folder() / "lib").glob("libgomp*.so*"))[:1]


def _torch_folder() -> Path:
    """Found without importing torch: whoever only wants to know whether the kernels build needs none of the rest."""
    spec = find_spec("torch")
    return Path(spec.origin).parent if spec is not None and spec.origin is not None else Path()
