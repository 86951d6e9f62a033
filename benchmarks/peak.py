"""The limits of this machine's cores and memory, measured by the loops of peak.cpp on all threads at once.

A matrix product can reach them and cannot exceed them, so a floor made of them does not depend on whose
kernels are good. Knows the compiler and ctypes; refuses to know engines. Without a C++ compiler, or on a
processor that peak.cpp knows no instructions for, there is no peak (`compute` is empty).
"""

from __future__ import annotations

import ctypes
import functools
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ramet.kernels.cpu.build import COMMON, BuildError, best_level, cache_folder

__all__ = ["Peaks", "measure_peaks"]

SOURCE = Path(__file__).with_suffix(".cpp")
STREAM_BYTES = 256 << 20  # more than any cache holds
_LINE = 64
KINDS = {"fp32": ctypes.c_float, "bf16": ctypes.c_float, "int8": ctypes.c_int32}


@dataclass(frozen=True, slots=True)
class Peaks:
    """`compute`: 10^9 operations per second on registers by "fp32", "bf16" and "int8", as far as there are.
    `bandwidth`: 10^9 bytes per second read, or None."""

    compute: dict[str, float]
    bandwidth: float | None


def measure_peaks(threads: int, seconds: float) -> Peaks:
    """About three times `seconds`, after a compilation on first use."""
    try:
        library = _library()
    except BuildError:
        return Peaks({}, None)
    with ThreadPoolExecutor(threads, thread_name_prefix="peak") as pool:
        compute = {}
        for kind in KINDS:
            each = getattr(library, f"peak_{kind}_operations")()
            if each:
                compute[kind] = _rate(
                    pool, threads, getattr(library, f"peak_{kind}"), each, seconds
                )
        return Peaks(compute, _bandwidth(pool, threads, library, seconds))


def _rate(
    pool: ThreadPoolExecutor,
    threads: int,
    run: Callable[[int], object],
    operations: int,
    seconds: float,
) -> float:
    """The best of some goes, each a tenth of the time."""
    iterations, took = 1000, 0.0
    while took < seconds / 10:
        iterations *= 2
        took = _together(pool, [functools.partial(run, iterations)] * threads)
    jobs = [functools.partial(run, iterations)] * threads
    best = min(took, *(_together(pool, jobs) for _ in range(9)))
    return threads * iterations * operations / best / 1e9


def _bandwidth(
    pool: ThreadPoolExecutor, threads: int, library: ctypes.CDLL, seconds: float
) -> float:
    data = np.ones(STREAM_BYTES // 8, np.uint64)
    lines = STREAM_BYTES // _LINE // threads
    starts = [data.ctypes.data + i * lines * _LINE for i in range(threads)]
    jobs = [functools.partial(library.read_lines, start, lines) for start in starts]
    times: list[float] = []
    while len(times) < 3 or sum(times) < seconds:
        times.append(_together(pool, jobs))
    return threads * lines * _LINE / min(times) / 1e9


def _together(pool: ThreadPoolExecutor, jobs: Sequence[Callable[[], object]]) -> float:
    """Seconds until all have run, each on a thread of its own (ctypes leaves the interpreter free)."""
    start = time.perf_counter()
    for done in [pool.submit(job) for job in jobs]:
        done.result()
    return time.perf_counter() - start


@functools.cache
def _library() -> ctypes.CDLL:
    library = ctypes.CDLL(str(_compiled()))
    for kind, result in KINDS.items():
        getattr(library, f"peak_{kind}_operations").restype = ctypes.c_int64
        function = getattr(library, f"peak_{kind}")
        function.argtypes, function.restype = [ctypes.c_int64], result
    library.read_lines.argtypes = [ctypes.c_void_p, ctypes.c_int64]
    library.read_lines.restype = ctypes.c_uint64
    return library


def _compiled() -> Path:
    level = best_level()
    target = cache_folder() / "bench" / f"peak-{level.name}.so"
    if target.is_file() and target.stat().st_mtime > SOURCE.stat().st_mtime:
        return target
    compiler = next(filter(None, map(shutil.which, ("g++", "clang++", "c++"))), None)
    if compiler is None:
        raise BuildError("there is no C++ compiler")
    target.parent.mkdir(parents=True, exist_ok=True)
    fresh = target.with_suffix(".new")
    command = [compiler, *COMMON, *level.flags, "-shared", str(SOURCE), "-o", str(fresh)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise BuildError(done.stderr)
    return fresh.replace(target)
