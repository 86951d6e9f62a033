"""Compiling native code: a folder of C++ sources -> one shared library for this machine, loaded.

Knows the compiler, its flags and the cache; refuses to know what a library computes. A library has a
plain C interface and does not depend on torch or Python, so it compiles in seconds and serves any
version of either. It is compiled for one instruction set level on first use, and `ramet build` builds
ahead of time. A call through ctypes leaves the interpreter free.

The cache is `$RAMET_CACHE`, or `ramet` under `$XDG_CACHE_HOME` or `~/.cache`. A library's name holds a
hash of its sources, flags and compiler, so an update compiles anew and nothing stale is ever loaded.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

__all__ = [
    "COMMON",
    "LEVELS",
    "BuildError",
    "Level",
    "Library",
    "best_level",
    "build",
    "cache_folder",
    "load",
]

# No contraction: a fused multiply-add happens where the source says so, so that a row's bits do not
# depend on how the compiler arranged the loop that it is in.
COMMON = ("-std=c++17", "-O3", "-fPIC", "-ffp-contract=off", "-fno-math-errno", "-pthread", "-Wall")


class BuildError(Exception):
    """Why there is no library: no compiler, or its message."""


@dataclass(frozen=True, slots=True)
class Level:
    """An instruction set level. `needs`: processor flags as Linux names them."""

    name: str
    flags: tuple[str, ...]
    needs: frozenset[str]


_AVX2 = frozenset({"avx2", "fma", "f16c", "bmi2"})
_AVX512 = _AVX2 | {"avx512f", "avx512bw", "avx512vl", "avx512dq", "avx512_vnni"}
_AVX512_FLAGS = ("-march=x86-64-v4", "-mavx512vnni")
LEVELS: dict[str, Level] = {
    level.name: level
    for level in (
        Level("avx512bf16", (*_AVX512_FLAGS, "-mavx512bf16"), _AVX512 | {"avx512_bf16"}),
        Level("avx512", _AVX512_FLAGS, _AVX512),
        Level("avx2", ("-march=x86-64-v3",), _AVX2),
        Level("portable", (), frozenset()),
    )
}


@dataclass(frozen=True, slots=True)
class Library:
    """Every *.cpp of the folder `sources` is linked together. `name` begins the file's name, `title` is
    what a person is told."""

    name: str
    title: str
    sources: Path


@functools.cache
def best_level() -> Level:
    """The best level that this machine runs; `$RAMET_CPU_LEVEL` names another one."""
    named = os.environ.get("RAMET_CPU_LEVEL")
    if named:
        if named not in LEVELS:
            raise BuildError(f"RAMET_CPU_LEVEL: {named!r} is none of {', '.join(LEVELS)}")
        return LEVELS[named]
    have = _processor_flags()
    return next(level for level in LEVELS.values() if level.needs <= have)


def _processor_flags() -> set[str]:
    if platform.machine() not in ("x86_64", "AMD64"):
        return set()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return set()
    return set(next((line for line in lines if line.startswith("flags")), "").split())


def cache_folder() -> Path:
    """Where libraries are kept; not created here."""
    if named := os.environ.get("RAMET_CACHE"):
        return Path(named)
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "ramet"


def build(library: Library, level: Level | None = None, *, say: bool = True) -> Path:
    """The library for `level` (default: the best), compiled if the cache does not have it.

    Raises BuildError. `say` announces a compilation on stderr: it takes seconds.
    """
    level = level or best_level()
    compiler = _compiler()
    flags = (*COMMON, *level.flags)
    digest = _digest(compiler, flags, library.sources)
    target = cache_folder() / f"{library.name}-{level.name}-{digest}.so"
    if target.is_file():
        return target
    if say:
        print(f"ramet: compiling {library.title} (once, some seconds) ...", file=sys.stderr)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent) as folder:
            fresh = _compile(compiler, flags, library.sources, Path(folder))
            os.replace(fresh, target)  # whoever else builds at this moment makes the same file
    except OSError as error:
        raise BuildError(f"cannot write to {target.parent}: {error}; set RAMET_CACHE") from error
    return target


def load(library: Library, level: Level | None = None) -> ctypes.CDLL:
    """The library, built where it has to be. Raises BuildError."""
    path = build(library, level)
    try:
        return ctypes.CDLL(str(path))
    except OSError as error:
        raise BuildError(
            f"cannot load {path}: {error}; delete it, or set RAMET_CACHE to another folder"
        ) from error


def _compiler() -> str:
    named = os.environ.get("CXX")
    for name in (named,) if named else ("g++", "clang++", "c++"):
        if found := shutil.which(name):
            return found
    raise BuildError(f"there is no C++ compiler ({named or 'g++, clang++ or c++'}) on the PATH")


def _digest(compiler: str, flags: tuple[str, ...], sources: Path) -> str:
    digest = hashlib.sha256(" ".join((compiler, *flags, platform.machine())).encode())
    try:
        digest.update(
            subprocess.run([compiler, "--version"], capture_output=True, check=True).stdout
        )
    except (OSError, subprocess.CalledProcessError) as error:
        raise BuildError(f"{compiler} does not run: {error}") from error
    for file in sorted([*sources.glob("*.cpp"), *sources.glob("*.h")]):
        digest.update(file.name.encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()[:16]


def _compile(compiler: str, flags: tuple[str, ...], sources: Path, folder: Path) -> Path:
    """Each source on its own, as many at once as there are cores; then one link."""

    def one(source: Path) -> Path:
        target = folder / f"{source.stem}.o"
        _run([compiler, *flags, "-c", str(source), "-o", str(target)])
        return target

    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        objects = list(pool.map(one, sorted(sources.glob("*.cpp"))))
    target = folder / "library.so"
    _run([compiler, "-shared", "-pthread", *map(str, objects), "-o", str(target)])
    return target


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise BuildError(f"{' '.join(command[:1])} failed:\n{done.stderr.strip()[-2000:]}")
