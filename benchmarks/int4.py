"""Would weights in 4 bits be faster than in 8 where memory is the limit? A prototype says by how
much.

    python -m benchmarks.int4 [--threads 2]

Two loops that differ in nothing but the weights' bits (int4.cpp) go through more weights than the
caches hold, at few rows; PyTorch's own 4-bit product runs beside them. Times of a whole forward
pass gain less: attention, norms and the output matrix do not shrink. The prototype computes no
usable result (groups' offsets are left out) and is not part of the engine.
"""

from __future__ import annotations

import argparse
import ctypes
import functools
import subprocess
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch

from benchmarks.interleaved import interleaved
from benchmarks.machine import describe
from ramet.kernels import threads
from ramet.kernels.cpu.build import COMMON, best_level

__all__ = ["main"]

SOURCE = Path(__file__).with_suffix(".cpp")
NUM_IN, NUM_OUT, COPIES = 2048, 11264, 5  # a matrix of a 1.1B model; 115 MB in 8 bits
ROWS = (1, 4, 8)
_TORCH_GROUP = 64

Run = Callable[[], object]


def _library(folder: str) -> ctypes.CDLL:
    target = f"{folder}/int4.so"
    flags = (*COMMON, *best_level().flags)
    subprocess.run(["g++", *flags, "-w", "-shared", str(SOURCE), "-o", target], check=True)
    library = ctypes.CDLL(target)
    library.int4_group.restype = ctypes.c_int64
    return library


def prototype(
    library: ctypes.CDLL, bits: int, rows: int, pool: ThreadPoolExecutor, count: int
) -> Run:
    """One pass over all copies, their panels dealt out to `count` threads."""
    panels = COPIES * NUM_OUT // 32
    rng = np.random.default_rng(0)
    weights = rng.integers(0, 256, panels * 32 * NUM_IN * bits // 8, np.uint8)
    scales = np.full(panels * 32 * NUM_IN // int(library.int4_group()), 0.1, np.float32)
    x = rng.integers(0, 127, rows * NUM_IN).astype(np.uint8)
    y = np.empty(panels * rows * 32, np.float32)

    def part(first: int, last: int) -> None:
        library.int4_multiply(
            ctypes.c_int32(bits),
            ctypes.c_int32(rows),
            ctypes.c_void_p(x.ctypes.data),
            ctypes.c_int64(NUM_IN),
            ctypes.c_int64(last - first),
            ctypes.c_void_p(weights.ctypes.data + first * 32 * NUM_IN * bits // 8),
            ctypes.c_void_p(scales.ctypes.data + first * 32 * NUM_IN // library.int4_group() * 4),
            ctypes.c_void_p(y.ctypes.data + first * rows * 32 * 4),
        )

    cuts = [panels * i // count for i in range(count + 1)]
    jobs = [functools.partial(part, *cuts[i : i + 2]) for i in range(count)]
    return lambda: [done.result() for done in [pool.submit(job) for job in jobs]]


def torch_int4(rows: int) -> Run:
    """Weights alone in 4 bits; rows in bfloat16, as the operator wants them."""
    weight = torch.randint(0, 16, (NUM_OUT, NUM_IN), dtype=torch.int32)
    packed = torch._convert_weight_to_int4pack_for_cpu(weight, 1)
    copies = [packed.clone() for _ in range(COPIES)]
    scales = torch.full((NUM_IN // _TORCH_GROUP, NUM_OUT, 2), 0.1, dtype=torch.bfloat16)
    x = torch.randn(rows, NUM_IN, dtype=torch.bfloat16)
    call = torch._weight_int4pack_mm_for_cpu
    return lambda: [call(x, matrix, _TORCH_GROUP, scales) for matrix in copies]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.int4", description=__doc__)
    parser.add_argument("--threads", type=int, default=threads.num_threads())
    args = parser.parse_args(arguments)
    if "avx512_vnni" not in best_level().needs:
        print("int4: the prototype needs AVX-512 with VNNI, which this processor does not have")
        return 1
    threads.set_num_threads(args.threads)
    size = COPIES * NUM_IN * NUM_OUT
    print(f"machine: {describe()}; {args.threads} threads, {size / 1e6:.0f} M weights, cold")
    with ThreadPoolExecutor(args.threads) as pool, tempfile.TemporaryDirectory() as folder:
        library = _library(folder)
        for rows in ROWS:
            runs = {
                f"{bits} bits": prototype(library, bits, rows, pool, args.threads)
                for bits in (8, 4)
            }
            times = interleaved(runs | {"torch 4 bits": torch_int4(rows)})
            ratio = times["8 bits"] / times["4 bits"]
            line = f"{rows} rows: 4 bits are {ratio:.2f} times as fast as 8"
            for name, seconds in times.items():
                line += f"; {name} {seconds * 1e3:.2f} ms, {size / seconds / 1e9:.1f} G weights/s"
            print(line, flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
